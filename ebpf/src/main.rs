//! sluice's kernel side: the XDP programs `steer` and `steer_frags`.
//!
//! A packet's road starts here. The program looks at as little of the frame as it must and decides
//! one thing: does the frame go to the AF_XDP socket of its rx queue, or on to the kernel's stack?
//! It changes no byte and hands no metadata over; userspace parses again, since it trusts nobody.
//!
//! One body, two programs. A program without `frags` takes from a veth's peer its segmentation
//! offload (the driver cannot hand over more than one buffer), so `steer_frags` is what a veth
//! wants; `steer` is for kernels and drivers without multi-buffer XDP.
//!
//! Safe by default: an unconfigured device, a queue without socket and any doubt mean `XDP_PASS`.
//! The loader holds the program by an unpinned link, so a crash gives the NIC back at once.
#![no_std]
#![no_main]

mod peek;
mod steer;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, HashMap, PerCpuArray, XskMap},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use sluice_ebpf_common::{
    Config, ENDPOINTS_MAX, EndpointKey, NAT_MAX, NatKey, NatTake, Verdict, XSKS_MAX,
};

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static XSKS: XskMap<XSKS_MAX> = XskMap::new();
#[btf_map]
static ENDPOINTS: HashMap<EndpointKey, u32, ENDPOINTS_MAX> = HashMap::new();
#[btf_map]
static NAT: HashMap<NatKey, NatTake, NAT_MAX> = HashMap::new();
#[btf_map]
static VERDICTS: PerCpuArray<u64, { Verdict::COUNT }> = PerCpuArray::new();

#[xdp]
pub fn steer(ctx: XdpContext) -> u32 {
    act::<false>(&ctx)
}

#[xdp(frags)]
pub fn steer_frags(ctx: XdpContext) -> u32 {
    act::<true>(&ctx)
}

/// Carries the verdict out and counts it.
#[inline(always)]
fn act<const FRAGS: bool>(ctx: &XdpContext) -> u32 {
    let mut verdict = steer::decide(&peek::Packet::<FRAGS>::new(ctx));
    let mut action = xdp_action::XDP_PASS;
    if verdict.is_redirect() {
        // The flag is what the kernel returns when the queue has no socket.
        match XSKS.redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_PASS)) {
            Ok(redirect) => action = redirect,
            Err(_) => verdict = Verdict::PassNoSocket,
        }
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::info!(ctx, "queue {} verdict {}", ctx.rx_queue_index(), verdict as u32);
    if let Some(count) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the slot belongs to this CPU, and XDP programs on one CPU do not nest.
        unsafe { *count = (*count).wrapping_add(1) };
    }
    action
}

/// Nothing here panics; the compiler still wants to know where it would go.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Every helper in use is open to any licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
