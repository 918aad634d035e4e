//! Which device a setting means, and which instructions the CPU has.

use crate::error::Result;
use crate::kernels::Path;
use crate::options::Device;

/// The device itself: for `auto` the best one that is built in and found, looked for once.
pub(crate) fn resolved(device: Device) -> Device {
    match device {
        Device::Auto => best(),
        device => device,
    }
}

/// The instructions that the CPU uses in this process, see [`kernel_path`](crate::kernel_path).
pub(crate) fn kernel_path() -> Result<String> {
    Ok(Path::chosen()?.to_string())
}

#[cfg(any(feature = "cuda", feature = "metal"))]
fn best() -> Device {
    static BEST: std::sync::LazyLock<Device> = std::sync::LazyLock::new(|| {
        let found = |device: &Device| super::candle::open_device(*device).is_ok();
        let built_in = |device: &Device| device.require_built_in().is_ok();
        [Device::Cuda(0), Device::Metal].into_iter().filter(built_in).find(found).unwrap_or(Device::Cpu)
    });
    *BEST
}

#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn best() -> Device {
    Device::Cpu
}
