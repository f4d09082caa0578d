//! What devices reach, measured once and kept in the user's cache.

use anyhow::Result;
use halogen::gpu::{DeviceProfile, Gpu};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The kept profile of a device, else a fresh one, which is kept. A cache that cannot be read or written is no error.
///
/// # Errors
/// A device that cannot be measured.
pub fn of(gpu: &Gpu, remeasure: bool) -> Result<DeviceProfile> {
    let file = cache_folder().map(|folder| folder.join("devices.json"));
    let mut kept: BTreeMap<String, DeviceProfile> = file.as_deref().and_then(read).unwrap_or_default();
    let key = key(gpu.info());
    if let Some(profile) = kept.get(&key).filter(|_| !remeasure) {
        return Ok(*profile);
    }
    let profile = gpu.blocking_measure()?;
    kept.insert(key, profile);
    if let Some(file) = file {
        let _ = write(&file, &serde_json::to_vec_pretty(&kept)?);
    }
    Ok(profile)
}

/// halogen's folder in the user's cache, where there is such a place.
pub fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|home| home.join("Library/Caches"))
    } else {
        var("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or(var("HOME").map(|home| home.join(".cache")))
    };
    Some(base?.join("halogen"))
}

/// A driver's update or halogen's may change what is reached.
fn key(info: &wgpu::AdapterInfo) -> String {
    let wgpu::AdapterInfo { name, backend, driver, driver_info, .. } = info;
    format!("{name}, {backend}, {driver} {driver_info}, halogen {}", env!("CARGO_PKG_VERSION"))
}

fn read(file: &Path) -> Option<BTreeMap<String, DeviceProfile>> {
    let kept: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    // What an older halogen kept and did not measure all of is measured again.
    let whole = |(key, value)| Some((key, serde_json::from_value::<DeviceProfile>(value).ok()?));
    let plausible = |p: &DeviceProfile| {
        [p.stream_bytes_per_second, p.flops_per_second, p.dot_ops_per_second, p.dispatch_seconds]
            .into_iter()
            .all(|v| v.is_finite() && v > 0.0)
    };
    Some(kept.into_iter().filter_map(whole).filter(|(_, profile)| plausible(profile)).collect())
}

/// Writes a file of the cache whole or not at all: another halogen may read it meanwhile.
pub fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(file.parent().expect("a file in a folder"))?;
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
