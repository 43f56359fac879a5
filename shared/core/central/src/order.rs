//! What leaves first. Of each class of requests a share leaves, that follows from the weight.
//!
//! The weight is the share of what is ordinary: of default criticality, and safe to repeat. What is sheddable leaves before
//! it, what must not be repeated after it, what is critical last; at 0 nothing leaves, at 100 everything.

/// How important a request says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Criticality {
    /// It may be refused first.
    Sheddable,
    #[allow(missing_docs)]
    #[default]
    Default,
    /// It is refused last.
    Critical,
}

/// The share, 0…1, of a class that leaves at a weight of 0…1. Roots of the weight, and of what it leaves out, since the
/// shares of two classes never cross then.
#[must_use]
pub fn share(weight: f64, criticality: Criticality, repeatable: bool) -> f64 {
    let weight = weight.clamp(0.0, 1.0);
    match (criticality, repeatable) {
        (Criticality::Sheddable, true) => weight.sqrt(),
        (Criticality::Sheddable, false) | (Criticality::Default, true) => weight,
        (Criticality::Default, false) => 1.0 - (1.0 - weight).sqrt(),
        (Criticality::Critical, true) => 1.0 - (1.0 - weight).powf(1.0 / 3.0),
        (Criticality::Critical, false) => 1.0 - (1.0 - weight).powf(0.25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [(Criticality, bool); 6] = [
        (Criticality::Sheddable, true),
        (Criticality::Sheddable, false),
        (Criticality::Default, true),
        (Criticality::Default, false),
        (Criticality::Critical, true),
        (Criticality::Critical, false),
    ];

    #[test]
    fn nothing_leaves_at_0_and_everything_at_100() {
        for (criticality, repeatable) in ORDER {
            assert!(share(0.0, criticality, repeatable) <= 0.0);
            assert!(share(1.0, criticality, repeatable) >= 1.0);
        }
    }

    #[test]
    fn the_order_holds_at_every_weight_and_a_greater_weight_moves_more_of_each() {
        for percent in 1..100 {
            let weight = f64::from(percent) / 100.0;
            let shares = ORDER.map(|(criticality, repeatable)| share(weight, criticality, repeatable));
            assert!(shares.is_sorted_by(|a, b| a >= b), "{weight}: {shares:?}");
            for ((criticality, repeatable), now) in ORDER.into_iter().zip(shares) {
                assert!(share(weight + 0.01, criticality, repeatable) > now);
            }
        }
    }
}
