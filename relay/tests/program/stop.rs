//! The end after SIGTERM: in bounded time, whatever hangs.

use super::{REGISTRY, RELAY, Shell};

/// Waits for a line of the relay's log, then sends SIGTERM, and prints the exit code.
fn then_terminate(line: &str) -> String {
    format!("until grep -q '{line}' log; do sleep 0.02; done; kill -TERM $!; wait $!; echo $?")
}

#[test]
fn an_etcd_that_cannot_be_reached_holds_up_nothing() {
    let script = "$RELAY --iface=u0 --subnet-file=subnet.env --etcd-endpoints=http://192.0.2.9:2379 2>log & ";
    let mut shell = Shell::start(&(script.to_owned() + &then_terminate("underlay chosen")));
    assert_eq!(shell.printed(), "0", "{}", shell.log());
}

#[test]
fn a_flood_out_of_the_tun_holds_up_nothing() {
    let script = format!(
        "{REGISTRY}; \
         flood() {{ until ip route get 10.5.2.2 | grep flannel0; do sleep 0.02; done; exec 9>/dev/udp/10.5.2.2/9; \
                    while :; do printf '%01400d' 0 >&9; done; }} >/dev/null 2>&1; \
         flood & flood & \
         {RELAY} 2>log & relay=$!; \
         until $RELAY status --subnet-file=subnet.env 2>/dev/null | grep -q 'outbound *[0-9][0-9][0-9]'; do \
             kill -0 $relay || break; sleep 0.02; done; \
         kill -TERM $relay; wait $relay; echo $?; ip link show flannel0 2>&1; cat subnet.env"
    );
    let mut shell = Shell::start(&script);
    let rest = shell.printed();
    let (code, rest) = rest.split_once('\n').unwrap_or((&rest, ""));
    assert_eq!(code, "0", "{}", shell.log());
    assert!(rest.contains("does not exist") && rest.contains("FLANNEL_SUBNET=10.5.1.1/24"), "{rest}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_packets_nor_the_end() {
    // A pipe that is full before the first line.
    let script = format!(
        "mkfifo unread; exec 8<>unread; dd if=/dev/zero of=unread bs=4096 oflag=nonblock 2>/dev/null; {REGISTRY}; \
         {RELAY} 2>unread & relay=$!; \
         until ip route get 10.5.2.2 2>/dev/null | grep -q flannel0; do sleep 0.02; done; exec 9>/dev/udp/10.5.2.2/9; \
         until $RELAY status --subnet-file=subnet.env 2>/dev/null | grep -q 'outbound *[0-9]*[1-9]'; do \
             printf x >&9; sleep 0.02; done; \
         kill -TERM $relay; wait $relay; echo $?"
    );
    assert_eq!(Shell::start(&script).printed(), "0");
}

#[test]
fn an_event_loop_that_is_stuck_holds_up_the_end_for_a_while_only() {
    // It reads the subnet file, which is a pipe that nothing comes out of: opening the other end waits for it to be there.
    let script = format!(
        "{REGISTRY}; mkfifo subnet.env; {RELAY} 2>log & relay=$!; exec 9>subnet.env; \
         kill -TERM $relay; wait $relay; echo $?"
    );
    let mut shell = Shell::start(&script);
    assert_eq!(shell.printed(), "1", "{}", shell.log());
    assert!(shell.log().contains("not stopped in time"), "{}", shell.log());
}
