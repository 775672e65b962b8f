use std::process::Command as Tool;

use super::{super::namespace, *};

fn in_namespace(name: &str, test: impl Future<Output = ()>) {
    namespace::run(&format!("host::filter::tests::{name}"), test);
}

fn tool(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Tool::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn rules() -> Rules {
    let (network, subnet) = ("10.42.0.0/16".parse().unwrap(), "10.42.1.0/24".parse().unwrap());
    Rules { network, subnet, masquerade: true, fully_random: true, forward: true }
}

fn iptables_state() -> String {
    let list = |table, chain| tool(&format!("iptables -t {table} -S {chain}"));
    list("nat", "POSTROUTING")
        + &list("nat", "FLANNEL-POSTRTG")
        + &list("filter", "FORWARD")
        + &list("filter", "FLANNEL-FWD")
}

#[test]
fn iptables_has_the_rules_once_however_often_they_are_set_and_damaged() {
    in_namespace("iptables_has_the_rules_once_however_often_they_are_set_and_damaged", async {
        Filter::new(Manager::Iptables, rules()).install().await.unwrap();
        let state = iptables_state();
        assert_eq!(state.matches("-j FLANNEL-").count(), 2, "{state}");
        assert_eq!(state.matches("-A FLANNEL-").count(), 8, "{state}");
        let mut filter = Filter::new(Manager::Iptables, rules());
        filter.install().await.unwrap();
        assert_eq!(iptables_state(), state);
        assert!(!filter.resync().await.unwrap());

        for damage in [
            "iptables -F FLANNEL-FWD",
            "iptables -D FORWARD -m comment --comment flanneld\u{a0}forward -j FLANNEL-FWD",
            "iptables -t nat -D FLANNEL-POSTRTG 3",
            "iptables -t nat -F",
            "iptables -A FORWARD -j FLANNEL-FWD",
        ] {
            let mut words: Vec<String> = damage.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
            let program = words.remove(0);
            assert!(Tool::new(program).args(words).status().unwrap().success(), "{damage}");
            assert!(filter.resync().await.unwrap(), "{damage}");
            assert_eq!(iptables_state().matches("-j FLANNEL-").count(), 2, "{damage}");
            assert_eq!(iptables_state().matches("-A FLANNEL-").count(), 8, "{damage}");
            assert!(!filter.resync().await.unwrap(), "{damage}");
        }
    });
}

#[test]
fn nftables_has_the_rules_once_however_often_they_are_set_and_damaged() {
    in_namespace("nftables_has_the_rules_once_however_often_they_are_set_and_damaged", async {
        let mut filter = Filter::new(Manager::Nftables, rules());
        filter.install().await.unwrap();
        filter.install().await.unwrap();
        let state = tool("nft list table ip flannel-ipv4");
        assert!(
            state.contains("\t\tip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random\n"),
            "{state}"
        );
        assert_eq!(state.matches(" accept\n").count(), 2, "{state}");
        assert!(!filter.resync().await.unwrap());
        for damage in ["nft flush chain ip flannel-ipv4 postrtg", "nft delete table ip flannel-ipv4"] {
            tool(damage);
            assert!(filter.resync().await.unwrap(), "{damage}");
            assert_eq!(tool("nft list table ip flannel-ipv4"), state);
        }
    });
}

#[test]
fn rules_of_the_other_manager_and_those_no_longer_wanted_are_removed() {
    in_namespace("rules_of_the_other_manager_and_those_no_longer_wanted_are_removed", async {
        Filter::new(Manager::Iptables, rules()).install().await.unwrap();
        Filter::new(Manager::Nftables, rules()).install().await.unwrap();
        let left = tool("iptables-save");
        assert!(!left.contains("FLANNEL"), "{left}");
        let forward = Rules { masquerade: false, ..rules() };
        Filter::new(Manager::Iptables, rules()).install().await.unwrap();
        Filter::new(Manager::Iptables, forward).install().await.unwrap();
        let left = tool("iptables-save");
        assert!(left.contains("FLANNEL-FWD") && !left.contains("FLANNEL-POSTRTG"), "{left}");
        assert!(!tool("nft list tables").contains("flannel"));
        Filter::new(Manager::Nftables, Rules { forward: false, ..forward }).install().await.unwrap();
        assert!(!tool("nft list ruleset").contains(&"flannel".to_uppercase()));
    });
}

#[test]
fn where_no_rules_are_wanted_none_are_missed() {
    in_namespace("where_no_rules_are_wanted_none_are_missed", async {
        for manager in [Manager::Iptables, Manager::Nftables] {
            let mut filter = Filter::new(manager, Rules { masquerade: false, forward: false, ..rules() });
            filter.install().await.unwrap();
            assert!(!filter.resync().await.unwrap(), "{manager:?}");
        }
    });
}
