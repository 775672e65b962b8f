use std::{
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use super::*;
use crate::datapath::{
    runs::{Destination, Runs},
    udp::{enable_runs, enable_traffic_class, receives_runs},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn socket() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("bound to IPv4") };
    (socket, SocketAddrV4::port(&address))
}

fn pack(datagrams: &[Vec<u8>], segmented: bool) -> Runs {
    let mut runs = Runs::new(segmented);
    for datagram in datagrams {
        runs.room()[..datagram.len()].copy_from_slice(datagram);
        runs.push(HERE, datagram.len());
    }
    runs
}

fn send_all(socket: &UdpSocket, port: u16, runs: &Runs) {
    let (buffer, mut rest) = runs.waiting();
    while !rest.is_empty() {
        let sent = send(socket, port, buffer, rest).unwrap();
        rest = &rest[sent..];
    }
}

fn receive_all(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut arrivals = Arrivals::new(RECEIVE);
    let mut received = Vec::new();
    while received.len() < count {
        arrivals.receive(socket).unwrap();
        for (arrival, octets) in arrivals.iter_mut() {
            assert_eq!(arrival.node, HERE);
            received.extend(datagrams(octets, arrival.stride).map(|datagram| datagram.to_vec()));
        }
    }
    received
}

fn sample() -> Vec<Vec<u8>> {
    let lengths = (0..40).map(|_| 100).chain([40, 0, 700, 700, 1]).chain((0..70).map(|_| 64));
    lengths.enumerate().map(|(index, length)| vec![index as u8; length]).collect()
}

#[test]
fn datagrams_arrive_as_they_were_packed_whatever_each_end_offers() {
    for (sends_runs, receives_runs) in [(false, false), (false, true), (true, false), (true, true)] {
        let ((sender, _), (receiver, port)) = (socket(), socket());
        if receives_runs {
            assert!(enable_runs(&receiver).receive);
        }
        send_all(&sender, port, &pack(&sample(), sends_runs));
        assert_eq!(receive_all(&receiver, sample().len()), sample());
    }
}

#[test]
fn a_kernel_that_does_not_segment_refuses_the_first_run_and_takes_single_datagrams() {
    let ((sender, _), (receiver, port)) = (socket(), socket());
    // A socket without checksums is what Linux does not segment for.
    let on = 1 as libc::c_int;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            sender.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    let runs = pack(&sample(), true);
    let (buffer, waiting) = runs.waiting();
    let error = send(&sender, port, buffer, waiting).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO)), "{error}");
    send_all(&sender, port, &pack(&sample(), false));
    assert_eq!(receive_all(&receiver, sample().len()), sample());
}

#[test]
fn a_datagram_longer_than_udp_carries_is_refused_by_length() {
    let ((sender, _), (_receiver, port)) = (socket(), socket());
    let runs = pack(&[vec![0; 65_508]], true);
    let (buffer, waiting) = runs.waiting();
    assert_eq!(send(&sender, port, buffer, waiting).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
}

#[test]
fn each_datagram_arrives_with_the_traffic_class_it_was_sent_with() {
    let classes = [0u8, 0, 2, 2, 2, 3, 3, 0, 0xb9, 0xff, 0xff, 1, 2, 2];
    for (sends_runs, receives_runs) in [(false, false), (false, true), (true, false), (true, true)] {
        let ((sender, _), (receiver, port)) = (socket(), socket());
        enable_traffic_class(&receiver).unwrap();
        if receives_runs {
            assert!(enable_runs(&receiver).receive);
        }
        let mut runs = Runs::new(sends_runs);
        for (index, traffic_class) in classes.into_iter().enumerate() {
            runs.room()[..100].fill(index as u8);
            runs.push(Destination { node: HERE, traffic_class }, 100);
        }
        send_all(&sender, port, &runs);
        let mut arrivals = Arrivals::new(RECEIVE);
        let mut received = Vec::new();
        while received.len() < classes.len() {
            arrivals.receive(&receiver).unwrap();
            for (arrival, octets) in arrivals.iter_mut() {
                let datagrams = datagrams(octets, arrival.stride);
                received.extend(datagrams.map(|datagram| (datagram[0], arrival.traffic_class)));
            }
        }
        let sent = classes.into_iter().enumerate().map(|(index, class)| (index as u8, class));
        assert_eq!(received, sent.collect::<Vec<_>>(), "{sends_runs} {receives_runs}");
    }
}

#[test]
fn runs_that_wait_in_a_socket_taken_over_are_told_apart_on_any_rung() {
    let ((sender, _), (receiver, port)) = (socket(), socket());
    assert!(!receives_runs(&receiver) && enable_runs(&receiver).receive);
    send_all(&sender, port, &pack(&sample(), true));
    let taken_over = receiver.try_clone().unwrap();
    drop(receiver);
    assert!(receives_runs(&taken_over));
    assert_eq!(receive_all(&taken_over, sample().len()), sample());
}

#[test]
fn one_message_is_taken_alone_and_then_what_else_is_there() {
    let ((sender, _), (receiver, port)) = (socket(), socket());
    send_all(&sender, port, &pack(&sample()[..4], false));
    let mut arrivals = Arrivals::new(RECEIVE);
    arrivals.receive_one(&receiver).unwrap();
    let first: Vec<_> = arrivals.iter_mut().map(|(_, octets)| octets[0]).collect();
    arrivals.try_receive(&receiver).unwrap();
    let rest: Vec<_> = arrivals.iter_mut().map(|(_, octets)| octets[0]).collect();
    assert_eq!((first, rest), (vec![0], vec![1, 2, 3]));
    let nothing = arrivals.try_receive(&receiver).unwrap_err();
    assert_eq!((nothing.kind(), arrivals.count()), (std::io::ErrorKind::WouldBlock, 0));
}

#[test]
fn an_empty_message_is_one_empty_datagram() {
    assert_eq!(datagrams(&mut [], 0).count(), 1);
    assert_eq!(datagrams(&mut [1, 2, 3], 2).map(|d| d.len()).collect::<Vec<_>>(), [2, 1]);
}
