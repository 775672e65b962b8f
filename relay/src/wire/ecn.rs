//! Explicit congestion notification in the IP header (RFC 3168 section 5), and what a tunnel does with it (RFC 6040).

/// The bits of the traffic class octet that hold the field; the rest is the DSCP (RFC 2474).
pub const MASK: u8 = 0b11;

/// The field's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    /// The sender does not understand marks: congestion is told by dropping.
    NotCapable = 0b00,
    /// ECT(1).
    Capable1 = 0b01,
    /// ECT(0).
    Capable0 = 0b10,
    /// CE: it met congestion on its way.
    Congested = 0b11,
}

impl Ecn {
    /// The field in a traffic class octet.
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & MASK {
            0b00 => Self::NotCapable,
            0b01 => Self::Capable1,
            0b10 => Self::Capable0,
            _ => Self::Congested,
        }
    }
}

/// What leaves a tunnel, by what arrived inside and outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The packet, with this field.
    With(Ecn),
    /// The same, from a pair of fields that nothing in order produces: RFC 6040 asks that it be told of.
    Unexpected(Ecn),
    /// Nothing: it met congestion, and its sender would not understand the mark.
    Nothing,
}

/// Joins the fields of a packet and of the datagram that it came in (RFC 6040 section 4.2, figure 4).
#[must_use]
pub const fn decapsulate(inner: Ecn, outer: Ecn) -> Leaving {
    use Ecn::{Capable0, Capable1, Congested, NotCapable};
    match (inner, outer) {
        (NotCapable, NotCapable) => Leaving::With(NotCapable),
        (NotCapable, Capable0 | Capable1) => Leaving::Unexpected(NotCapable),
        (NotCapable, Congested) => Leaving::Nothing,
        (Capable0, NotCapable | Capable0) => Leaving::With(Capable0),
        (Capable0 | Capable1, Capable1) => Leaving::With(Capable1),
        (Capable1, NotCapable) => Leaving::With(Capable1),
        (Capable1, Capable0) => Leaving::Unexpected(Capable1),
        (Capable0 | Capable1, Congested) => Leaving::With(Congested),
        (Congested, NotCapable | Capable0 | Congested) => Leaving::With(Congested),
        (Congested, Capable1) => Leaving::Unexpected(Congested),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_leaves_as_figure_4_of_rfc_6040_has_it() {
        // Rows: the inner field; columns: the outer one; each Not-ECT, ECT(0), ECT(1), CE.
        let figure = [
            ["Not-ECT", "Not-ECT!", "Not-ECT!", "drop"],
            ["ECT(0)", "ECT(0)", "ECT(1)", "CE"],
            ["ECT(1)", "ECT(1)!", "ECT(1)", "CE"],
            ["CE", "CE", "CE!", "CE"],
        ];
        let order = [Ecn::NotCapable, Ecn::Capable0, Ecn::Capable1, Ecn::Congested];
        let name = |ecn| match ecn {
            Ecn::NotCapable => "Not-ECT",
            Ecn::Capable0 => "ECT(0)",
            Ecn::Capable1 => "ECT(1)",
            Ecn::Congested => "CE",
        };
        for (inner, row) in order.into_iter().zip(figure) {
            for (outer, expected) in order.into_iter().zip(row) {
                let leaving = match decapsulate(inner, outer) {
                    Leaving::With(ecn) => name(ecn).to_owned(),
                    Leaving::Unexpected(ecn) => format!("{}!", name(ecn)),
                    Leaving::Nothing => "drop".to_owned(),
                };
                assert_eq!(leaving, expected, "{} in {}", name(inner), name(outer));
            }
        }
    }

    #[test]
    fn the_field_is_the_lower_two_bits_whatever_the_dscp() {
        for octet in 0..=u8::MAX {
            assert_eq!(Ecn::of(octet) as u8, octet & MASK);
        }
    }
}
