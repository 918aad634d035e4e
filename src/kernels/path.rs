//! Which instructions the kernels use on this machine.

use std::sync::OnceLock;

/// The set of instructions that the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
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
    /// The best path of this machine, found once. `DATAFUSION_EMBED_KERNELS=avx2` or `portable` asks for a lower one;
    /// a name that this machine cannot run is ignored, because a wrong one would be an illegal instruction.
    pub(crate) fn detect() -> Self {
        static PATH: OnceLock<Path> = OnceLock::new();
        *PATH.get_or_init(|| {
            let wanted = std::env::var("DATAFUSION_EMBED_KERNELS").unwrap_or_default();
            let available = Self::available();
            available.iter().copied().find(|path| path.name() == wanted).unwrap_or(available[0])
        })
    }

    /// Every path that this machine can run, best first; the last one is always [`Path::Portable`].
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
                paths.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                paths.push(Self::Avx2);
            }
        }
        paths.push(Self::Portable);
        paths
    }

    /// Whether bf16 products run on instructions of their own; elsewhere they are widened to f32.
    pub(super) fn has_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether int8 products run on instructions of their own; elsewhere they are widened to f32.
    pub(super) fn has_int8(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512vnni"),
            _ => false,
        }
    }

    /// The name that `--version` and `DATAFUSION_EMBED_KERNELS` use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// `a * b + c`, in one rounding where the path has the instruction. Without it `f32::mul_add` would be a library call.
#[inline(always)]
pub(super) fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Compiles one plain-Rust kernel body once per path and calls the right copy.
///
/// `per_path! { fn name(a: A, b: B) = body; }` makes `fn name(path: Path, a: A, b: B)`; `body` must be
/// `#[inline(always)]` with a `const FMA: bool` parameter, so that each copy is compiled with its path's instructions.
macro_rules! per_path {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident;) => {
        $(#[$doc])*
        $vis fn $name(path: $crate::kernels::Path, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512($($arg: $type),*) {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) {
                $body::<true>($($arg),*)
            }
            match path {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this path exists only where the processor has these instructions (Path::available).
                $crate::kernels::Path::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::kernels::Path::Avx2 => unsafe { avx2($($arg),*) },
                $crate::kernels::Path::Portable => $body::<false>($($arg),*),
            }
        }
    };
}
pub(super) use per_path;
