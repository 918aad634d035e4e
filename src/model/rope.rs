//! Rotary positions as a configuration describes them -> radians per token.

use std::f64::consts::PI;

use super::config::Config;
use crate::error::Result;

/// What the kinds of `rope_type` do to the frequencies.
const KINDS: &str = "default, linear, dynamic, ntk, llama3, yarn";

/// Angles of one kind of layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RotaryShape {
    /// Radians per token of each pair of a head's values.
    pub(crate) frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with.
    pub(crate) scale: f32,
    /// Whether the frequencies are the same beyond the model's own limit.
    pub(crate) holds_beyond: bool,
}

impl RotaryShape {
    /// Reads `rope_scaling` or `rope_parameters`. `layers` names the kind of layer whose part of them counts, where they are
    /// by kind; `head` is the width of a head, `theta` what counts where the object names none.
    pub(super) fn read(config: &Config, layers: Option<&str>, head: usize, theta: f64) -> Result<Self> {
        let (scaling, parameters) = (config.object("rope_scaling")?, config.object("rope_parameters")?);
        let outer = if layers.is_none() { scaling.as_ref().or(parameters.as_ref()) } else { parameters.as_ref() };
        let parameters = match (layers, outer) {
            // Without a part for the layers, the old key counts for all of them.
            (Some(layers), Some(outer)) => outer.object(layers)?.or_else(|| scaling.clone()),
            (Some(_), None) => scaling.clone(),
            (None, _) => outer.cloned(),
        };
        let Some(parameters) = parameters else { return Self::of(config, theta, head) };
        let theta = parameters.positive("rope_theta")?.unwrap_or(theta);
        let plain = Self::plain(theta, head);
        let kind = match parameters.text("rope_type")? {
            Some(kind) => Some(kind),
            None => parameters.text("type")?,
        };
        let kind = kind.unwrap_or("default");
        if kind != "default" {
            // transformers reads this part for the kinds that stretch and then fails on it; for the default it does not.
            for config in [config, &parameters] {
                config.expect("partial_rotary_factor", &1.0.into())?;
            }
        }
        let truncate = outer.map_or(Ok(true), |outer| outer.flag("truncate", true))?;
        let scaling = Scaling { config, parameters: &parameters, theta, by_layers: layers.is_some(), truncate };
        let shape = match kind {
            "default" => plain,
            // Up to the model's own limit a dynamic base is the plain one.
            "dynamic" => Self { holds_beyond: false, ..plain },
            "linear" => scaling.linear(plain)?,
            "ntk" => scaling.ntk(plain)?,
            "llama3" => scaling.llama3(plain)?,
            "yarn" => scaling.yarn(plain)?,
            other => return Err(parameters.unsupported("rope_type", other, KINDS)),
        };
        shape.check(&parameters, kind)?;
        Ok(shape)
    }

    /// Refuses angles that no model turns by: numbers that are each fine may together give what is none.
    fn check(&self, parameters: &Config, kind: &str) -> Result<()> {
        let wrong = self.frequencies.iter().find(|frequency| !(**frequency > 0.0 && frequency.is_finite()));
        if let Some(frequency) = wrong {
            let known = format!("numbers that give frequencies above 0, these give {frequency}");
            return Err(parameters.unsupported("rope_type", kind, &known));
        }
        if self.scale > 0.0 && self.scale.is_finite() {
            return Ok(());
        }
        let known = format!("an attention_factor above 0, this is {}", self.scale);
        Err(parameters.unsupported("rope_type", kind, &known))
    }

    /// Positions that nothing stretches, for so many values of a head.
    pub(super) fn of(config: &Config, theta: f64, turned: usize) -> Result<Self> {
        let shape = Self::plain(theta, turned);
        shape.check(config, "default")?;
        Ok(shape)
    }

    /// Frequencies for so many values of a head, which fall from 1 to nearly `1 / theta`, rounded step by step as PyTorch
    /// rounds them.
    fn plain(theta: f64, turned: usize) -> Self {
        let frequencies = (0..turned).step_by(2).map(|i| plain_frequency(theta, i as f32 / turned as f32)).collect();
        Self { frequencies, scale: 1.0, holds_beyond: true }
    }
}

fn plain_frequency(theta: f64, exponent: f32) -> f32 {
    1.0 / (theta as f32 as f64).powf(f64::from(exponent)) as f32
}

/// What a longer context than the model was trained on does to the frequencies.
struct Scaling<'a> {
    config: &'a Config,
    parameters: &'a Config,
    theta: f64,
    by_layers: bool,
    /// Of yarn: whether its bounds are whole numbers.
    truncate: bool,
}

impl Scaling<'_> {
    fn need(&self, key: &str) -> Result<f64> {
        self.parameters.positive(key)?.ok_or_else(|| self.parameters.unsupported(key, "missing", "a positive number"))
    }

    /// A number that 0 stands for no more than a missing one does.
    fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.parameters.number(key)?.filter(|x| *x != 0.0).unwrap_or(default))
    }

    fn factor(&self) -> Result<f32> {
        Ok(self.need("factor")? as f32)
    }

    /// The length that the model was trained on.
    fn trained(&self) -> Result<f64> {
        let own = (self.parameters, "original_max_position_embeddings");
        // Beside the object it takes the place of the object's own, where that is not by kind of layer.
        let beside = (self.config, "original_max_position_embeddings");
        let order = if self.by_layers { [own, own] } else { [beside, own] };
        for (config, key) in order.into_iter().chain([(self.config, "max_position_embeddings")]) {
            if let Some(length) = config.number(key)?.filter(|length| *length > 0.0) {
                return Ok(length);
            }
        }
        Ok(2048.0)
    }

    fn linear(&self, mut shape: RotaryShape) -> Result<RotaryShape> {
        let factor = self.factor()?;
        shape.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        Ok(shape)
    }

    /// Alibaba's: a larger base, and every frequency a little lower; with `mixed_b` the lower ones more than the higher.
    fn ntk(&self, shape: RotaryShape) -> Result<RotaryShape> {
        let factor = self.need("factor")?;
        let pairs = shape.frequencies.len() as f64;
        let frequencies = match self.parameters.number("mixed_b")? {
            None => {
                let larger = RotaryShape::plain(self.theta * factor, 2 * shape.frequencies.len());
                let lower = factor.powf(1.0 / pairs) as f32;
                larger.frequencies.into_iter().map(|frequency| frequency / lower).collect()
            }
            Some(b) => {
                let a = factor.ln() / pairs.powf(b);
                let lower = |i: usize| (a * ((i + 1) as f64).powf(b)).exp() as f32;
                shape.frequencies.iter().enumerate().map(|(i, frequency)| frequency / lower(i)).collect()
            }
        };
        Ok(RotaryShape { frequencies, ..shape })
    }

    /// Long waves are stretched, short ones are kept, those between are mixed.
    fn llama3(&self, mut shape: RotaryShape) -> Result<RotaryShape> {
        let factor = f64::from(self.factor()?);
        let (low, high) = (self.need("low_freq_factor")?, self.need("high_freq_factor")?);
        let trained = self.trained()?;
        for frequency in &mut shape.frequencies {
            let wave = 2.0 * PI / f64::from(*frequency);
            let smooth = ((trained / wave - low) / (high - low)).clamp(0.0, 1.0);
            *frequency = ((1.0 - smooth) * f64::from(*frequency) / factor + smooth * f64::from(*frequency)) as f32;
        }
        Ok(shape)
    }

    /// As llama3, by the number of turns over the trained length, and all values are scaled.
    fn yarn(&self, mut shape: RotaryShape) -> Result<RotaryShape> {
        let factor = self.need("factor")?;
        let dim = 2.0 * shape.frequencies.len() as f64;
        let trained = self.trained()?;
        let place = |turns: f64| dim * (trained / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (place(self.number("beta_fast", 32.0)?), place(self.number("beta_slow", 1.0)?));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        for (i, frequency) in shape.frequencies.iter_mut().enumerate() {
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let kept = f64::from(*frequency);
            *frequency = (kept / factor * stretched + kept * (1.0 - stretched)) as f32;
        }
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let both = (self.parameters.number("mscale")?, self.parameters.number("mscale_all_dim")?);
        let computed = match both {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
            _ => magnitude(1.0),
        };
        shape.scale = self.parameters.number("attention_factor")?.unwrap_or(computed) as f32;
        Ok(shape)
    }
}
