//! Whether both sides delivered the same packets.
//!
//! A sample of the load is played through both with their output written down, and the frames are
//! compared as multisets: a batch may leave in another order than another's. For whole loads both
//! sides' counts say that every packet left (`ours::bench`, `Window::sent_share`).

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sluice_dataplane::port::pcap::PcapReader;

use crate::{Error, Result};

fn frames(path: &Path) -> Result<Vec<Vec<u8>>> {
    let what = |e: &dyn std::fmt::Display| Error::Unexpected(format!("{}: {e}", path.display()));
    let reader = PcapReader::new(BufReader::new(File::open(path).map_err(|e| what(&e))?));
    let packets = reader.map_err(|e| what(&e))?.map(|p| p.map(|p| p.bytes));
    packets.collect::<Result<_, _>>().map_err(|e| what(&e))
}

/// The frames of all files, sorted; bytes in which the sides are free are zero.
fn all_frames(files: &[PathBuf], free: &[Range<usize>]) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for file in files {
        all.append(&mut frames(file)?);
    }
    for range in free {
        all.iter_mut().filter_map(|f| f.get_mut(range.clone())).for_each(|b| b.fill(0));
    }
    all.sort();
    Ok(all)
}

/// How many frames were compared; an error says how the sides differ.
pub fn compare(ours: &[PathBuf], peers: &[PathBuf], free: &[Range<usize>]) -> Result<usize> {
    let (ours, peers) = (all_frames(ours, free)?, all_frames(peers, free)?);
    differ(&ours, &peers).map_or(Ok(ours.len()), |text| Err(Error::Unexpected(text)))
}

fn differ(ours: &[Vec<u8>], peers: &[Vec<u8>]) -> Option<String> {
    let hex = |f: &Vec<u8>| f.iter().map(|b| format!("{b:02x}")).collect::<String>();
    if ours.len() != peers.len() {
        return Some(format!("we delivered {} packets, the peer {}", ours.len(), peers.len()));
    }
    if ours.is_empty() {
        return Some("neither side delivered a packet".to_owned());
    }
    let (a, b) = ours.iter().zip(peers).find(|(a, b)| a != b)?;
    Some(format!("the packets differ: ours\n{}\npeer's\n{}", hex(a), hex(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_more_and_a_bit_else_are_seen() {
        let own = vec![vec![1, 2], vec![3, 4]];
        assert_eq!(differ(&own, &own.clone()), None);
        assert!(differ(&own, &own[..1]).unwrap().contains("2 packets, the peer 1"));
        assert!(differ(&own, &[vec![1, 2], vec![3, 5]]).unwrap().contains("0304\npeer's\n0305"));
        assert!(differ(&[], &[]).unwrap().contains("neither"));
    }
}
