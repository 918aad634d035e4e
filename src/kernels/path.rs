//! Which instructions the kernels use on this machine.

use std::fmt;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The environment variable that asks for a lower path than the best: `avx2` or `portable`.
const VARIABLE: &str = "DATAFUSION_EMBED_KERNELS";

/// The set of instructions that the kernels use, one that this machine has: there is no other way to a value than through the
/// question whether the processor has them, so that a value is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path(Instructions);

/// Which ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain Rust for the target's base instructions.
    Portable,
}

impl Path {
    /// The path of this process, chosen once: the best of this machine, or the one that [`VARIABLE`] names.
    pub(crate) fn chosen() -> Result<Self> {
        static PATH: OnceLock<std::result::Result<Path, String>> = OnceLock::new();
        let chosen = PATH.get_or_init(|| {
            let wanted = std::env::var(VARIABLE).unwrap_or_default();
            let available = Self::available();
            if wanted.is_empty() {
                return Ok(available[0]);
            }
            available.iter().copied().find(|path| path.name() == wanted).ok_or_else(|| {
                let names: Vec<_> = available.iter().map(|path| path.name()).collect();
                format!("{VARIABLE}: \"{wanted}\" is no path of this machine; it has {}", names.join(", "))
            })
        });
        chosen.clone().map_err(Error::Setting)
    }

    /// Which instructions this machine is proven to have.
    pub(super) fn instructions(self) -> Instructions {
        self.0
    }

    /// The one that every machine has.
    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self(Instructions::Portable)
    }

    /// Every path that this machine can run, best first; the last one is always the portable one.
    pub(crate) fn available() -> Vec<Self> {
        let mut paths = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
            {
                paths.push(Self(Instructions::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                paths.push(Self(Instructions::Avx2));
            }
        }
        paths.push(Self(Instructions::Portable));
        paths
    }

    /// Whether bf16 products run on instructions of their own; elsewhere they are widened to f32.
    pub(super) fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether int8 products run on instructions of their own; elsewhere they are widened to f32.
    pub(super) fn has_int8(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => is_x86_feature_detected!("avxvnni"),
            Instructions::Portable => false,
        }
    }

    /// The name that [`VARIABLE`] uses.
    fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            Instructions::Portable => "portable",
        }
    }
}

/// The name, and the low precisions that have instructions of their own: `avx512+bf16+int8`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        f.write_str(if self.has_bf16() { "+bf16" } else { "" })?;
        f.write_str(if self.has_int8() { "+int8" } else { "" })
    }
}

/// `a * b + c`, in one rounding where the path has the instruction. Without it `f32::mul_add` would be a library call.
#[inline(always)]
pub(super) fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Compiles one plain-Rust kernel body once per path and calls the right copy.
///
/// `per_path! { fn name(a: A, b: B) = body; }` makes `fn name(path: Path, a: A, b: B)`, and so it does with one type
/// parameter, `fn name<T: Bound>`; `body` must be `#[inline(always)]` with a `const FMA: bool` parameter (before `T`), so
/// that each copy is compiled with its path's instructions.
macro_rules! per_path {
    ($(#[$doc:meta])* $vis:vis fn $name:ident$(<$T:ident: $bound:path>)?($($arg:ident: $type:ty),* $(,)?) = $body:ident;) => {
        $(#[$doc])*
        $vis fn $name$(<$T: $bound>)?(path: $crate::kernels::Path, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512$(<$T: $bound>)?($($arg: $type),*) {
                $body::<true $(, $T)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2$(<$T: $bound>)?($($arg: $type),*) {
                $body::<true $(, $T)?>($($arg),*)
            }
            match path.instructions() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a path is the proof that the processor has its instructions.
                $crate::kernels::path::Instructions::Avx512 => unsafe { avx512$(::<$T>)?($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::kernels::path::Instructions::Avx2 => unsafe { avx2$(::<$T>)?($($arg),*) },
                $crate::kernels::path::Instructions::Portable => $body::<false $(, $T)?>($($arg),*),
            }
        }
    };
}
pub(super) use per_path;
