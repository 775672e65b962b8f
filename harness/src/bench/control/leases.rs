//! Leases of nodes that do not exist, in etcd.

use std::net::Ipv4Addr;

use etcd_client::{Client, Txn, TxnOp};
use ipnet::Ipv4Net;

use crate::bench::Error;
use crate::lab::Lab;
use crate::lab::registry::{lease_key, lease_value, registry};

/// The overlay's network: room for 65,536 subnets.
pub(super) const NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
/// The length of every subnet.
pub(super) const SUBNET_LEN: u8 = 24;
/// etcd takes up to 128 operations a transaction (`--max-txn-ops`).
pub(super) const BATCH: u32 = 100;

/// Leases that are there all the time, of subnets from 10.1.0.0 on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leases {
    pub(super) count: u32,
}

impl Leases {
    pub(super) fn new(count: u32) -> Self {
        Self { count }
    }

    /// The subnet of the n-th lease.
    pub(super) fn subnet(n: u32) -> Ipv4Net {
        Ipv4Net::new_assert(
            Ipv4Addr::from_bits(NETWORK.network().to_bits() + (1 << 16) + (n << 8)),
            SUBNET_LEN,
        )
    }

    /// The node that the n-th lease names after its `generation`-th change: another one for every lease and change.
    pub(super) fn owner(n: u32, generation: u32) -> Ipv4Addr {
        let base = Ipv4Addr::new(172, 21, 0, 0).to_bits();
        Ipv4Addr::from_bits(base + ((generation % 8) << 16) + n)
    }

    /// A change of up to [`BATCH`] leases from the `first` on, as one transaction.
    pub(super) fn change(self, first: u32, generation: u32) -> Txn {
        let operations = (first..self.count.min(first + BATCH))
            .map(|n| TxnOp::put(lease_key(Self::subnet(n)), lease_value(Self::owner(n, generation)), None));
        Txn::new().and_then(operations.collect::<Vec<_>>())
    }

    /// Puts all of them.
    pub(super) async fn put_all(self, lab: &Lab) -> Result<(), Error> {
        let mut client = lab.client().await?;
        for first in (0..self.count).step_by(BATCH as usize) {
            commit(&mut client, self.change(first, 0)).await?;
        }
        Ok(())
    }
}

/// Commits a transaction and returns the revision that it made.
pub(super) async fn commit(client: &mut Client, transaction: Txn) -> Result<i64, Error> {
    let answer = client.txn(transaction).await.map_err(registry("writing leases"))?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}

/// Puts one lease and returns the revision that it made.
pub(super) async fn put(client: &mut Client, subnet: Ipv4Net, owner: Ipv4Addr) -> Result<i64, Error> {
    let put = client.put(lease_key(subnet), lease_value(owner), None);
    let answer = put.await.map_err(registry(format!("writing the lease of {subnet}")))?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}
