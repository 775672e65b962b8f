//! Links, addresses and routes of one namespace, over rtnetlink.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, State,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::{self, Namespace};

/// A netlink socket that was opened in one namespace and acts there, from wherever it is used.
#[derive(Debug, Clone)]
pub struct Netlink {
    namespace: String,
    handle: Handle,
}

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// No socket.
    #[error("opening a netlink socket in `{namespace}`: {source}")]
    Socket {
        /// Where.
        namespace: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel said no.
    #[error("{doing} in `{namespace}`: {source}")]
    Refused {
        /// What was asked for.
        doing: String,
        /// Where.
        namespace: String,
        /// The kernel's answer.
        source: Box<rtnetlink::Error>,
    },
    /// There is no such link.
    #[error("{doing} in `{namespace}`: there is no link `{link}`")]
    NoLink {
        /// What was asked for.
        doing: String,
        /// Where.
        namespace: String,
        /// The link's name.
        link: String,
    },
}

/// An IPv4 route of a namespace's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it matches.
    pub destination: Ipv4Net,
    /// Its gateway, if not on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The index of the link it leaves by.
    pub link: Option<u32>,
}

impl Netlink {
    /// Opens a socket in `namespace`, driven by the current tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no socket be had.
    pub fn connect(namespace: &Namespace) -> Result<Self, Error> {
        let (connection, handle, _) = namespace
            .run(rtnetlink::new_connection)?
            .map_err(|source| Error::Socket { namespace: namespace.name().to_owned(), source })?;
        tokio::spawn(connection);
        Ok(Self { namespace: namespace.name().to_owned(), handle })
    }

    fn refused(&self, doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let (doing, namespace) = (doing.into(), self.namespace.clone());
        |source| Error::Refused { doing, namespace, source: Box::new(source) }
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`Error::NoLink`] when there is none.
    async fn link(&self, name: &str, doing: &str) -> Result<LinkMessage, Error> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(Some(link)) => Ok(link),
            Err(error) if !is_missing(&error) => Err(self.refused(doing)(error)),
            _ => Err(Error::NoLink {
                doing: doing.to_owned(),
                namespace: self.namespace.clone(),
                link: name.to_owned(),
            }),
        }
    }

    /// The index of a link.
    ///
    /// # Errors
    /// [`Error::NoLink`] when there is none.
    pub async fn index(&self, link: &str) -> Result<u32, Error> {
        Ok(self.link(link, "looking up a link").await?.header.index)
    }

    /// The MAC address of a link.
    ///
    /// # Errors
    /// [`Error::NoLink`] when there is no such link, or it has none.
    pub async fn mac(&self, link: &str) -> Result<[u8; 6], Error> {
        let doing = "looking up a link's address";
        let found = self.link(link, doing).await?;
        let address = found.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(octets) => octets.as_slice().try_into().ok(),
            _ => None,
        });
        address.ok_or_else(|| Error::NoLink {
            doing: doing.to_owned(),
            namespace: self.namespace.clone(),
            link: link.to_owned(),
        })
    }

    /// Names of all links but `lo`, in order of index.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn links(&self) -> Result<Vec<String>, Error> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(self.refused("listing links"))?;
        let links = links.iter().filter(|link| !link.header.flags.contains(LinkFlags::Loopback));
        Ok(links.filter_map(name_of).collect())
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn set_up(&self, link: &str, up: bool) -> Result<(), Error> {
        let doing = format!("setting link `{link}` {}", if up { "up" } else { "down" });
        let index = self.link(link, &doing).await?.header.index;
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        self.handle.link().set(message.build()).execute().await.map_err(self.refused(doing))
    }

    /// Sets a link's MTU, in octets.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn set_mtu(&self, link: &str, mtu: u32) -> Result<(), Error> {
        let doing = format!("setting the MTU of link `{link}` to {mtu}");
        let index = self.link(link, &doing).await?.header.index;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.handle.link().set(message).execute().await.map_err(self.refused(doing))
    }

    /// Adds a bridge and sets it up. It neither speaks nor snoops multicast: only the lab's own packets pass.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_bridge(&self, name: &str) -> Result<(), Error> {
        let message = LinkBridge::new(name).mcast_snooping(false).build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(self.refused(format!("adding bridge `{name}`")))
    }

    /// The ports of all bridges here that do not forward (yet), in order of index. A port forwards once its carrier is
    /// up, of which the kernel tells the bridge some time after the fact.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn ports_not_forwarding(&self) -> Result<Vec<String>, Error> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(self.refused("listing ports"))?;
        Ok(links
            .iter()
            .filter(|link| port_state(link).is_some_and(|forwards| !forwards))
            .filter_map(name_of)
            .collect())
    }

    /// Adds a pair of veths: `name` here, attached to `bridge` if one is given, and `peer` in `far`. This end is set
    /// up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_veth(
        &self,
        name: &str,
        bridge: Option<&str>,
        mtu: u32,
        (far, peer): (&Namespace, &str),
    ) -> Result<(), Error> {
        let doing = format!("adding veth `{name}` with its peer `{peer}` in `{}`", far.name());
        let far_end = LinkUnspec::new_with_name(peer).mtu(mtu).setns_by_fd(far.as_fd().as_raw_fd()).build();
        let mut near_end = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .mtu(mtu)
            .up();
        if let Some(bridge) = bridge {
            near_end = near_end.controller(self.index(bridge).await?);
        }
        self.handle.link().add(near_end.build()).execute().await.map_err(self.refused(doing))
    }

    /// Makes a link a port of `bridge`.
    ///
    /// # Errors
    /// When there is no such link or bridge, or the kernel refuses.
    pub async fn attach(&self, link: &str, bridge: &str) -> Result<(), Error> {
        let bridge = self.index(bridge).await?;
        self.set_controller(link, bridge).await
    }

    /// Takes a link off its bridge.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn detach(&self, link: &str) -> Result<(), Error> {
        self.set_controller(link, 0).await
    }

    async fn set_controller(&self, link: &str, controller: u32) -> Result<(), Error> {
        let doing = match controller {
            0 => format!("taking link `{link}` off its bridge"),
            _ => format!("making link `{link}` a port of a bridge"),
        };
        let index = self.link(link, &doing).await?.header.index;
        let message = LinkUnspec::new_with_index(index).controller(controller).build();
        self.handle.link().set(message).execute().await.map_err(self.refused(doing))
    }

    /// Deletes a link, and its peer if it is a veth.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn delete(&self, link: &str) -> Result<(), Error> {
        let doing = format!("deleting link `{link}`");
        let index = self.link(link, &doing).await?.header.index;
        self.handle.link().del(index).execute().await.map_err(self.refused(doing))
    }

    /// Adds an address to a link.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn add_address(&self, link: &str, address: Ipv4Net) -> Result<(), Error> {
        let doing = format!("adding address {address} to link `{link}`");
        let index = self.link(link, &doing).await?.header.index;
        let request = self.handle.address().add(index, address.addr().into(), address.prefix_len());
        request.execute().await.map_err(self.refused(doing))
    }

    /// Removes every IPv4 address of a link.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub async fn flush_addresses(&self, link: &str) -> Result<(), Error> {
        let doing = format!("removing the addresses of link `{link}`");
        let index = self.link(link, &doing).await?.header.index;
        let mut addresses = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(address) = addresses.try_next().await.map_err(self.refused(&doing))? {
            self.handle.address().del(address).execute().await.map_err(self.refused(&doing))?;
        }
        Ok(())
    }

    /// Adds the default route.
    ///
    /// # Errors
    /// When the gateway is not reachable or the kernel refuses.
    pub async fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), Error> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(self.refused(format!("adding a default route via {gateway}")))
    }

    /// The routes of the main table.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(filter)
            .execute()
            .try_collect()
            .await
            .map_err(self.refused("listing routes"))?;
        const MAIN: u8 = libc::RT_TABLE_MAIN;
        Ok(messages.iter().filter(|message| message.header.table == MAIN).map(Route::from_message).collect())
    }
}

impl Route {
    fn from_message(message: &RouteMessage) -> Self {
        let v4 = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(*address),
            _ => None,
        };
        let mut route = Self { destination: Ipv4Net::default(), gateway: None, link: None };
        let mut base = Ipv4Addr::UNSPECIFIED;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => base = v4(address).unwrap_or(base),
                RouteAttribute::Gateway(address) => route.gateway = v4(address),
                RouteAttribute::Oif(index) => route.link = Some(*index),
                _ => {}
            }
        }
        route.destination = Ipv4Net::new(base, message.header.destination_prefix_length).unwrap_or_default();
        route
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// Whether a bridge's port forwards; none for a link that is no such port.
fn port_state(link: &LinkMessage) -> Option<bool> {
    let information = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(information) => Some(information),
        _ => None,
    })?;
    let port = information.iter().find_map(|part| match part {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => Some(port),
        _ => None,
    })?;
    let enabled = port.iter().any(|part| matches!(part, InfoBridgePort::State(BridgePortState::Forwarding)));
    // A bridge enables the port of a link of which the kernel has yet to find out that it had no carrier
    // (`IF_OPER_UNKNOWN`); the link drops everything until it has found out that it has one.
    let up = link.attributes.iter().any(|part| matches!(part, LinkAttribute::OperState(State::Up)));
    Some(enabled && up)
}

/// Whether the kernel's answer is that the link does not exist.
fn is_missing(error: &rtnetlink::Error) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            matches!(-message.raw_code(), libc::ENODEV | libc::ENOENT)
        }
        _ => false,
    }
}
