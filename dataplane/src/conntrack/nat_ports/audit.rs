//! The pools, port by port.

use super::{PORTS, PortPools, WORDS};
use crate::conntrack::audit::{Findings, Ports};

impl PortPools {
    /// Each port has the users that it is counted to have, and its bits say whether any and whether
    /// more than one. `held`: what live connections hold. Gives the users.
    pub fn audit(&self, held: &Ports, f: &mut Findings) -> usize {
        let mut all = 0;
        for (n, pool) in self.pools.iter().enumerate() {
            let own = held.get(&pool.key.words());
            let (mut users, mut ports) = (0, 0);
            for port in 0..PORTS {
                let (at, bit) = (self.used[n * WORDS + port / 64], 1 << (port % 64));
                let (any, shared) = (at.any & bit != 0, at.shared & bit != 0);
                let more = self.more[n * PORTS + port];
                let kept = u16::from(any) + more;
                let counted = own.and_then(|o| o.get(port)).copied().unwrap_or(0);
                if kept != counted {
                    let key = pool.key;
                    f.wrong(|| format!("port {port} of {key:?}: {kept} users, {counted} counted"));
                }
                if any != (counted > 0) || shared != (more > 0) {
                    let key = pool.key;
                    f.wrong(|| format!("port {port} of {key:?}: {counted} users, wrong bits"));
                }
                users += usize::from(counted);
                ports += usize::from(counted > 0);
            }
            f.same(&format!("users of {:?}", pool.key), pool.users as usize, users);
            f.same(&format!("ports of {:?}", pool.key), pool.ports as usize, ports);
            if self.find(&pool.key).is_none_or(|found| found.0 != n) {
                f.wrong(|| format!("{:?} cannot be found", pool.key));
            }
            all += users;
        }
        let wanted: usize = held.values().flatten().map(|n| usize::from(*n)).sum();
        f.same("connections that hold a port", all, wanted);
        all
    }
}
