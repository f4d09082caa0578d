//! What the operating system says of memory. Linux tells; elsewhere nothing is known here.

use serde::Serialize;
use std::path::Path;

/// Bytes, where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// Of the host: all, and what programs can have now.
    pub total: Option<u64>,
    pub available: Option<u64>,
    /// Of an AMD GPU: its own (of an APU the firmware's carve-out), and what it may use of the host's (GTT).
    pub vram: Option<u64>,
    pub gtt: Option<u64>,
}

impl System {
    /// Asks the running system.
    pub fn read() -> System {
        System::under(Path::new("/"))
    }

    /// Reads `proc/meminfo` and `sys/class/drm` under a folder. Of several AMD GPUs the one with the most memory counts.
    #[allow(clippy::disallowed_methods, reason = "there is nothing to find where there are no files")]
    fn under(root: &Path) -> System {
        let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let mut system = System {
            total: field(&meminfo, "MemTotal:"),
            available: field(&meminfo, "MemAvailable:"),
            ..System::default()
        };
        let cards = std::fs::read_dir(root.join("sys/class/drm")).into_iter().flatten().flatten();
        for card in cards {
            let number = |name: &str| -> Option<u64> {
                std::fs::read_to_string(card.path().join("device").join(name)).ok()?.trim().parse().ok()
            };
            let (Some(vram), Some(gtt)) = (number("mem_info_vram_total"), number("mem_info_gtt_total")) else {
                continue;
            };
            if system.vram.zip(system.gtt).is_none_or(|(v, g)| v.saturating_add(g) < vram.saturating_add(gtt)) {
                (system.vram, system.gtt) = (Some(vram), Some(gtt));
            }
        }
        system
    }

    /// What a device that shares the host's memory can have: the free memory, and where an AMD GPU has a carve-out, that
    /// too; but no more than carve-out and GTT together.
    pub fn shared(&self) -> Option<u64> {
        let available = self.available?;
        match self.vram.zip(self.gtt) {
            Some((vram, gtt)) => Some(vram.saturating_add(available).min(vram.saturating_add(gtt))),
            None => Some(available),
        }
    }
}

/// A line of /proc/meminfo, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn linux_tells_of_the_host_and_of_amd_gpus() {
        let root = std::env::temp_dir().join(format!("halogen-system-{}", std::process::id()));
        let card = root.join("sys/class/drm/card1/device");
        fs::create_dir_all(root.join("proc")).unwrap();
        fs::create_dir_all(&card).unwrap();
        fs::write(root.join("proc/meminfo"), "MemTotal:  131072 kB\nMemAvailable:  100000 kB\n").unwrap();
        let without = System::under(&root);
        fs::write(card.join("mem_info_vram_total"), "536870912\n").unwrap();
        fs::write(card.join("mem_info_gtt_total"), "64424509440\n").unwrap();
        let with = System::under(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((without.total, without.available, without.vram), (Some(131_072 << 10), Some(100_000 << 10), None));
        assert_eq!(without.shared(), Some(100_000 << 10));
        assert_eq!((with.vram, with.gtt), (Some(512 << 20), Some(60 << 30)));
        assert_eq!(with.shared(), Some((512 << 20) + (100_000 << 10)));
        let short = System { gtt: Some(1 << 20), ..with };
        assert_eq!(short.shared(), Some(513 << 20));
        assert_eq!(field("MemTotal: 1 kB", "MemAvailable:"), None);
    }
}
