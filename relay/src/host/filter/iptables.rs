//! flannel's rules as text for iptables-restore(8), and what is there already as iptables(8) lists it.
//!
//! Source: flannel `pkg/trafficmngr/iptables/iptables.go`; expected listings in `e2e/rules.go`.

use super::Rules;

/// One chain of flannel's, reached by a jump from one of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: &'static str,
    /// The kernel's chain.
    pub(super) hook: &'static str,
    pub(super) name: &'static str,
    comment: &'static str,
    /// Each as it follows `-A NAME`.
    rules: Vec<String>,
}

/// What iptables lists of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// The rules in the kernel's chain that jump to it, each as it follows `-A HOOK`.
    jumps: Vec<String>,
    /// Its rules, if it exists.
    pub(super) rules: Option<String>,
}

impl Listed {
    /// Reads the output of `iptables -S` for the kernel's chain, and for the chain itself if it exists.
    pub(super) fn parse(chain: &Chain, hook: &str, rules: Option<String>) -> Self {
        let lead = format!("-A {} ", chain.hook);
        let target = format!("-j {}", chain.name);
        let jumps = hook.lines().filter_map(|line| line.trim_end().strip_prefix(&lead));
        Self { jumps: jumps.filter(|rule| rule.ends_with(&target)).map(str::to_owned).collect(), rules }
    }

    /// Whether nothing of the chain is there.
    pub(super) fn is_absent(&self) -> bool {
        self.jumps.is_empty() && self.rules.is_none()
    }

    /// Whether it has as many rules as it should, and is reached once.
    pub(super) fn is_whole(&self, chain: &Chain) -> bool {
        let rules = self.rules.iter().flat_map(|rules| rules.lines()).filter(|line| line.starts_with("-A "));
        self.jumps.len() == 1 && rules.count() == chain.rules.len()
    }

    /// Whether the rules are as they were `shown` and reached once.
    pub(super) fn is_intact(&self, shown: &str) -> bool {
        self.jumps.len() == 1 && self.rules.as_deref() == Some(shown)
    }
}

impl Chain {
    /// `--ip-masq`. `fully_random` needs iptables 1.6.2.
    pub(super) fn masquerade(rules: &Rules, fully_random: bool) -> Self {
        let (n, s) = (rules.network, rules.subnet);
        let target = if fully_random { "MASQUERADE --random-fully" } else { "MASQUERADE" };
        Self::new(
            ("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq"),
            &[
                // kube-proxy's mark: translating such a packet twice breaks it.
                ("-m mark --mark 0x4000/0x4000".into(), "RETURN"),
                (format!("-s {s} -d {n}"), "RETURN"),
                (format!("-s {n} -d {s}"), "RETURN"),
                (format!("! -s {n} -d {s}"), "RETURN"),
                (format!("-s {n} ! -d 224.0.0.0/4"), target),
                (format!("! -s {n} -d {n}"), target),
            ],
        )
    }

    /// `--iptables-forward-rules`.
    pub(super) fn forward(rules: &Rules) -> Self {
        let n = rules.network;
        Self::new(
            ("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward"),
            &[(format!("-s {n}"), "ACCEPT"), (format!("-d {n}"), "ACCEPT")],
        )
    }

    fn new(
        (table, hook, name, comment): (&'static str, &'static str, &'static str, &'static str),
        rules: &[(String, &str)],
    ) -> Self {
        let rules = rules
            .iter()
            .map(|(matches, target)| format!("{matches} -m comment --comment \"{comment}\" -j {target}"))
            .collect();
        Self { table, hook, name, comment, rules }
    }

    /// What iptables-restore is to do so that the chain is as it should be, whatever was `listed`. It is emptied and
    /// filled in one transaction; a jump that exists stays where it is.
    pub(super) fn restore(&self, listed: &Listed) -> String {
        let (table, hook, name, comment) = (self.table, self.hook, self.name, self.comment);
        // With --noflush, naming a chain creates or empties it.
        let mut text = format!("*{table}\n:{name} - [0:0]\n");
        for rule in &self.rules {
            text += &format!("-A {name} {rule}\n");
        }
        for jump in listed.jumps.iter().skip(1) {
            text += &format!("-D {hook} {jump}\n");
        }
        if listed.jumps.is_empty() {
            text += &format!("-A {hook} -m comment --comment \"{comment}\" -j {name}\n");
        }
        text + "COMMIT\n"
    }

    /// What iptables-restore is to do so that nothing of the chain is left.
    pub(super) fn remove(&self, listed: &Listed) -> String {
        let (table, hook, name) = (self.table, self.hook, self.name);
        let mut text = format!("*{table}\n:{name} - [0:0]\n");
        for jump in &listed.jumps {
            text += &format!("-D {hook} {jump}\n");
        }
        text + &format!("-X {name}\nCOMMIT\n")
    }
}

/// Whether a version as `iptables --version` prints it has `--random-fully`, and iptables-restore `--wait`: both
/// came with 1.6.2.
pub(super) fn is_recent(version: &str) -> bool {
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let parse = || {
        let mut parts =
            version.split_whitespace().find_map(|word| word.strip_prefix('v'))?.split('.').map(number);
        let mut part = || parts.next().flatten();
        Some((part()?, part()?, part().unwrap_or(0)))
    };
    parse().is_some_and(|version: (u32, u32, u32)| version >= (1, 6, 2))
}

/// Whether it is the variant on x_tables, for which listing a table creates it.
pub(super) fn is_legacy(version: &str) -> bool {
    !version.contains("nf_tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            network: "10.42.0.0/16".parse().unwrap(),
            subnet: "10.42.1.0/24".parse().unwrap(),
            masquerade: true,
            fully_random: true,
            forward: true,
        }
    }

    const MASQUERADE: &str = r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.1.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -d 10.42.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
COMMIT
"#;

    const FORWARD: &str = r#"*filter
:FLANNEL-FWD - [0:0]
-A FLANNEL-FWD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
COMMIT
"#;

    #[test]
    fn the_rules_are_flannels_line_by_line() {
        let nothing = Listed::default();
        assert_eq!(Chain::masquerade(&rules(), true).restore(&nothing), MASQUERADE);
        assert_eq!(Chain::forward(&rules()).restore(&nothing), FORWARD);
        let plain = MASQUERADE.replace(" --random-fully", "");
        assert_eq!(Chain::masquerade(&rules(), false).restore(&nothing), plain);
    }

    fn listed(jumps: usize, shown: Option<&str>) -> Listed {
        let other = "-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-FWD\n-A FORWARD -j FLANNEL-FWD-OLD\n";
        let jump = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        Listed::parse(
            &Chain::forward(&rules()),
            &(other.to_owned() + &jump.repeat(jumps)),
            shown.map(Into::into),
        )
    }

    #[test]
    fn a_jump_that_is_there_stays_and_a_second_one_goes() {
        let chain = Chain::forward(&rules());
        let jump = "FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        let once = chain.restore(&listed(1, Some("")));
        assert!(!once.contains(jump), "{once}");
        let twice = chain.restore(&listed(2, Some("")));
        assert_eq!(
            (twice.matches(jump).count(), twice.contains(&format!("-D {jump}"))),
            (1, true),
            "{twice}"
        );
    }

    #[test]
    fn rules_are_intact_when_they_are_as_shown_and_reached_once() {
        assert!(listed(1, Some("x")).is_intact("x"));
        let forward = Chain::forward(&rules());
        assert!(listed(1, Some("-N FLANNEL-FWD\n-A FLANNEL-FWD 1\n-A FLANNEL-FWD 2\n")).is_whole(&forward));
        assert!(!listed(1, Some("-N FLANNEL-FWD\n")).is_whole(&forward), "flushed right after it was filled");
        for damaged in [listed(0, Some("x")), listed(2, Some("x")), listed(1, Some("y")), listed(1, None)] {
            assert!(!damaged.is_intact("x"), "{damaged:?}");
        }
        assert!(listed(0, None).is_absent());
    }

    #[test]
    fn removal_takes_every_jump_and_the_chain() {
        let jump = "-D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        assert_eq!(
            Chain::forward(&rules()).remove(&listed(2, Some(""))),
            format!("*filter\n:FLANNEL-FWD - [0:0]\n{jump}{jump}-X FLANNEL-FWD\nCOMMIT\n")
        );
    }

    #[test]
    fn versions_are_told_apart() {
        assert!(is_recent("iptables v1.8.9 (nf_tables)"));
        assert!(is_recent("iptables v1.6.2"));
        assert!(is_recent("iptables v1.10.0-rc1 (legacy)"));
        for old in ["iptables v1.6.1", "iptables v1.4.21", "", "garbage v", "iptables vx.y"] {
            assert!(!is_recent(old), "{old}");
        }
        assert!(is_legacy("iptables v1.8.9 (legacy)") && is_legacy("iptables v1.6.1"));
        assert!(!is_legacy("iptables v1.8.9 (nf_tables)"));
    }
}
