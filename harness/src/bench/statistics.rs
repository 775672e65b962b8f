//! Medians, quantiles and spread of samples.

/// Samples in ascending order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sorted(Vec<f64>);

impl FromIterator<f64> for Sorted {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        let mut all: Vec<f64> = samples.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
}

impl Sorted {
    /// The least sample that at least `share` (0 to 1) of all do not exceed: the nearest rank. NaN of no samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The middle one, or the mean of the two in the middle. NaN of no samples.
    pub(crate) fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        match (self.0.get(half.wrapping_sub(1)), self.0.get(half)) {
            (Some(one), Some(other)) if self.0.len().is_multiple_of(2) => f64::midpoint(*one, *other),
            (_, Some(middle)) => *middle,
            _ => f64::NAN,
        }
    }

    /// The least one. NaN of no samples.
    pub(crate) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The greatest one. NaN of no samples.
    pub(crate) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(samples: &[f64]) -> Sorted {
        samples.iter().copied().collect()
    }

    #[test]
    fn quantiles_are_samples_by_nearest_rank() {
        let hundred: Sorted = (1..=100).rev().map(f64::from).collect();
        assert_eq!(hundred.quantile(0.5), 50.0);
        assert_eq!(hundred.quantile(0.99), 99.0);
        assert_eq!(hundred.quantile(1.0), 100.0);
        assert_eq!(hundred.quantile(0.0), 1.0);
        assert_eq!(sorted(&[7.0]).quantile(0.999), 7.0);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(sorted(&[4.0, 1.0, 3.0]).median(), 3.0);
        assert_eq!(sorted(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
    }

    #[test]
    fn no_samples_give_no_number() {
        let none = sorted(&[]);
        assert!(none.median().is_nan() && none.quantile(0.5).is_nan() && none.max().is_nan());
    }
}
