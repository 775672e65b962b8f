use super::*;

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let arguments = std::iter::once("relay").chain(arguments.iter().copied()).map(OsString::from);
    Options::parse_from_go(arguments).map_err(|error| error.to_string())
}

#[test]
fn flags_are_taken_with_one_dash_or_two_with_a_space_or_an_equals_sign() {
    for arguments in [
        &["--etcd-prefix=/x", "--iface=eth0", "--iface=eth1"][..],
        &["-etcd-prefix", "/x", "-iface", "eth0", "-iface=eth1"],
        &["--etcd-prefix", "/x", "--iface", "eth0", "--iface", "eth1"],
    ] {
        let options = parse(arguments).unwrap();
        assert_eq!(options.etcd_prefix, "/x");
        assert_eq!(options.iface, ["eth0", "eth1"]);
    }
}

#[test]
fn booleans_take_a_value_by_an_equals_sign_only() {
    assert!(!parse(&[]).unwrap().version);
    for arguments in [["-version"], ["--version=true"], ["--version=T"]] {
        assert!(parse(&arguments).unwrap().version);
    }
    assert!(!parse(&["--version=0"]).unwrap().version);
    assert!(parse(&["--version", "false"]).is_err());
    assert!(parse(&["--version=yes"]).is_err());
}

#[test]
fn defaults_are_flanneld_s() {
    let config = parse(&[]).unwrap().into_config();
    let RegistryOptions::Etcd(etcd) = config.registry else { panic!("{:?}", config.registry) };
    assert_eq!(etcd.endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!(etcd.prefix, "/coreos.com/network");
    assert_eq!(config.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(config.renew_margin, Duration::from_secs(3600));
    assert_eq!(config.healthz, None);
    let resync = Duration::from_secs(5);
    let filter = daemon::FilterConfig { masquerade: false, fully_random: true, forward: true, resync };
    assert_eq!(config.filter, filter);
    assert!(!config.blackhole_route);
    assert_eq!(config.underlay.public_ip, None);
}

#[test]
fn of_a_flag_given_twice_the_last_one_counts() {
    let config = parse(&["--ip-masq", "--public-ip=192.0.2.1", "--ip-masq=false", "--public-ip=192.0.2.2"]);
    let config = config.unwrap().into_config();
    assert!(!config.filter.masquerade);
    assert_eq!(config.underlay.public_ip, Some(Ipv4Addr::new(192, 0, 2, 2)));
}

#[test]
fn of_endpoints_given_twice_the_last_ones_count() {
    let given = ["--etcd-endpoints=http://a:1,http://b:1", "--etcd-endpoints=http://c:1,http://d:1"];
    let registry = parse(&given).unwrap().into_config().registry;
    assert!(
        matches!(registry, RegistryOptions::Etcd(etcd) if etcd.endpoints == ["http://c:1", "http://d:1"])
    );
    for wrong in
        ["--etcd-endpoints=", "--etcd-endpoints=http://a:1,", "--etcd-endpoints=http://a:1,unix:///b"]
    {
        assert!(parse(&[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn an_empty_variable_counts_as_none() {
    // SAFETY: nothing else reads or writes this variable.
    unsafe { std::env::set_var("RELAY_TEST_OF_AN_EMPTY_VARIABLE", "") };
    let command = clap::Command::new("relay").arg(
        clap::Arg::new("masq")
            .long("masq")
            .env("RELAY_TEST_OF_AN_EMPTY_VARIABLE")
            .value_parser(["true", "false"]),
    );
    assert!(command.clone().try_get_matches_from(["relay"]).is_err());
    assert!(without_empty_variables(command).try_get_matches_from(["relay"]).is_ok());
}

#[test]
fn the_verbosity_is_a_number() {
    for arguments in [&["-v=2"][..], &["-v", "2"], &["--v=2"]] {
        assert_eq!(parse(arguments).unwrap().verbosity, 2);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for arguments in [
        ["--subnet-lease-renew-margin=0"],
        ["--subnet-lease-renew-margin=1440"],
        ["--public-ip=fd00::1"],
        ["--healthz-port=65536"],
        ["--iptables-resync=0"],
        ["--etcd-endpoints=unix:///run/etcd"],
        ["--registry=file:"],
        ["--registry=consul"],
        ["--no-such-flag"],
    ] {
        assert!(parse(&arguments).is_err(), "{arguments:?}");
    }
}

#[test]
fn what_flanneld_has_and_relay_has_not_is_declined_by_name() {
    for arguments in
        [&["--kube-subnet-mgr"][..], &["-kube-api-url", "http://10.0.0.1"], &["--public-ipv6=fd00::1"]]
    {
        let message = parse(arguments).unwrap_err();
        assert!(message.contains("is not supported"), "{message}");
    }
}

#[test]
fn a_flag_that_asks_for_nothing_is_taken() {
    parse(&["--kube-subnet-mgr=0", "-net-config-path", "/etc/kube-flannel/net-conf.json"]).unwrap();
}

#[test]
fn the_last_word_about_what_is_not_supported_counts_and_the_command_line_before_the_environment() {
    let environment = |name: &str| (name == "FLANNELD_KUBE_SUBNET_MGR").then(|| "true".to_owned());
    let said = |arguments: &[&str]| {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        go_flags::unsupported(&arguments, environment)
    };
    assert_eq!(said(&["relay", "--kube-subnet-mgr=false"]), None);
    assert_eq!(said(&["relay", "--kube-subnet-mgr", "--kube-subnet-mgr=false"]), None);
    let refused = said(&["relay", "--kube-subnet-mgr=false", "--kube-subnet-mgr"]).unwrap();
    assert!(refused.starts_with("--kube-subnet-mgr is not"), "{refused}");
    assert!(said(&["relay", "--ip-masq"]).unwrap().starts_with("FLANNELD_KUBE_SUBNET_MGR is not"));
    parse(&["--kube-subnet-mgr", "--kube-subnet-mgr=false"]).unwrap();
}

#[test]
fn an_unsupported_variable_of_the_environment_is_declined_by_name() {
    let environment = |name: &str| (name == "FLANNELD_KUBE_SUBNET_MGR").then(|| "true".to_owned());
    let message = go_flags::unsupported(&[], environment).unwrap();
    assert!(message.starts_with("FLANNELD_KUBE_SUBNET_MGR is not supported"), "{message}");
    assert_eq!(go_flags::unsupported(&[], |_| Some(String::new())), None);
}

#[test]
fn packet_filter_rules_are_chosen_by_flannel_s_flags() {
    let options = parse(&[
        "-ip-masq",
        "--ip-masq-fully-random-disable=true",
        "--iptables-forward-rules=false",
        "-iptables-resync",
        "7",
        "-ip-blackhole-route",
    ]);
    let config = options.unwrap().into_config();
    let resync = Duration::from_secs(7);
    let filter = daemon::FilterConfig { masquerade: true, fully_random: false, forward: false, resync };
    assert_eq!(config.filter, filter);
    assert!(config.blackhole_route);
}

#[test]
fn outer_sources_are_matched_unless_peers_are_behind_nat() {
    let config = |arguments: &[&str]| parse(arguments).unwrap().into_config();
    assert!(!config(&[]).peers_behind_nat);
    assert!(config(&["-peers-behind-nat"]).peers_behind_nat);
    assert!(!config(&["--peers-behind-nat=false"]).peers_behind_nat);
}

/// The table of flags in the documentation, a row a flag: name, default, what it does, as `--help` has them.
#[test]
fn the_documentation_has_every_flag_with_its_default_and_help() {
    let text = include_str!("../../../docs/relay.md");
    let table = text.split("| flag | default | |\n|-|-|-|\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let documented: Vec<&str> = table.lines().collect();
    let command = Options::command();
    let expected: Vec<String> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
        .map(|argument| {
            let long = argument.get_long().unwrap();
            let name = argument.get_short().map_or(format!("--{long}"), |short| format!("-{short}"));
            let default = argument.get_default_values().iter().filter_map(|value| value.to_str());
            let default = Some(default.collect::<Vec<_>>().join(",")).filter(|default| !default.is_empty());
            let default = default.map_or(String::new(), |default| format!("`{default}`"));
            let variable = argument.get_env().and_then(|variable| variable.to_str()).unwrap();
            // The rule for the others stands above the table.
            let usual = format!("FLANNELD_{}", long.replace('-', "_").to_uppercase());
            let named = if variable == usual { String::new() } else { format!(" (`{variable}`)") };
            format!("| `{name}` | {default} | {}{named} |", argument.get_help().unwrap())
        })
        .collect();
    let plain = |row: &str| row.replace('`', "");
    let documented: Vec<String> = documented.into_iter().map(plain).collect();
    assert_eq!(documented, expected.iter().map(|row| plain(row)).collect::<Vec<_>>());
}

#[test]
fn the_registry_is_etcd_or_a_file() {
    let registry = parse(&["-registry", "file:/etc/relay.toml"]).unwrap().into_config().registry;
    assert!(matches!(registry, RegistryOptions::File(path) if *path == *"/etc/relay.toml"));
}

#[test]
fn an_authority_is_used_alone_and_a_certificate_with_its_key_only() {
    let tls = |arguments: &[&str]| match parse(arguments).unwrap().into_config().registry {
        RegistryOptions::Etcd(etcd) => etcd.tls,
        RegistryOptions::File(path) => panic!("{path:?}"),
    };
    let alone = tls(&["--etcd-endpoints=https://10.0.0.1:2379", "--etcd-cafile=/ca", "--etcd-certfile=/crt"]);
    assert_eq!(alone, TlsFiles { authority: Some("/ca".into()), identity: None });
    let both = tls(&["--etcd-certfile=/crt", "--etcd-keyfile=/key"]);
    assert_eq!(both, TlsFiles { authority: None, identity: Some(("/crt".into(), "/key".into())) });
}
