//! Who a connection counts for, where balancers and proxies stand between: on every core, with every
//! cut of the bytes, and with clients that vanish at any moment.

use std::cell::Cell;

use proxy_header::{ProxiedAddress, ProxyHeader};
use serde_json::json;

use super::net::{JSON, Net};
use crate::{
    config::{ClientAddress, Config, Span},
    engine::sim::replay::for_each_seed,
};

/// How the gateway learns of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A PROXY header names it.
    Header,
    /// A field of the request does.
    Field,
    /// A PROXY header names a proxy, and that writes the field.
    Both,
}

impl Way {
    fn draw(net_seed: u64) -> Self {
        [Self::Header, Self::Field, Self::Both][(net_seed % 3) as usize]
    }

    /// The simulated clients are the balancers and proxies: they have addresses in 10.0.0.0/8.
    fn configure(self, config: &mut Config) {
        let balancers = vec!["10.0.0.0/8".parse().unwrap()];
        let server = &mut config.server;
        match self {
            Self::Header => server.proxy_protocol = balancers,
            Self::Field => {
                server.client_address = ClientAddress::XForwardedFor;
                server.trusted_proxies = balancers;
            }
            Self::Both => {
                server.proxy_protocol = balancers;
                server.client_address = ClientAddress::Forwarded;
                server.trusted_proxies = vec!["192.168.0.0/16".parse().unwrap()];
            }
        }
    }

    /// A client's connection, and the first command it has to say.
    fn connect(self, net: &mut Net, address: &str) -> usize {
        let client = net.connect("/ws", JSON);
        match self {
            Self::Header => begin(net, client, address),
            Self::Field => {
                let line = format!("X-Forwarded-For: 203.0.113.9, {address}");
                net.clients[client].add_field(&line);
            }
            Self::Both => {
                let line = format!("Forwarded: for=203.0.113.9, for={address}");
                net.clients[client].add_field(&line);
                begin(net, client, "192.168.1.1");
            }
        }
        net.clients[client].command(json!({"type": "echo", "data": 1}));
        client
    }
}

/// Puts a PROXY header in front of what a client says.
fn begin(net: &mut Net, client: usize, address: &str) {
    let ip: std::net::IpAddr = address.parse().unwrap();
    let named = ProxiedAddress::stream((ip, 1).into(), (ip, 2).into());
    let mut header = Vec::new();
    let named = ProxyHeader::with_address(named);
    if net.rng.one_in(2) {
        named.encode_v1(&mut header).unwrap();
    } else {
        named.encode_v2(&mut header).unwrap();
    }
    net.clients[client].say_first(&header);
}

const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

#[test]
fn clients_behind_proxies_count_each_for_itself() {
    let asked = Cell::new(0);
    let all = for_each_seed("worker::tests::origins::clients_behind", 90, |seed| {
        let way = Way::draw(seed);
        let mut net = Net::new(seed, |config| {
            way.configure(config);
            config.limits.connections_per_ip = 3;
            config.limits.handshakes_per_ip_per_second = 0;
        });
        for n in 0..14 {
            way.connect(&mut net, ADDRESSES[n % 2]);
        }
        net.until("each has its answer", |net| {
            let answered = |c: &super::client::Client| c.is_refused() || c.is_open();
            net.clients.iter().all(answered)
        });
        net.settle();
        for address in 0..ADDRESSES.len() {
            let of: Vec<usize> = (address..14).step_by(2).collect();
            let open = of.iter().filter(|n| net.clients[**n].is_open());
            assert_eq!(open.count(), 3, "{way:?}");
            for n in of {
                let client = &net.clients[n];
                assert!(client.is_open() || client.is_refused());
                // What it said right behind its request was heard.
                assert_eq!(client.is_open(), client.answer("1").is_some());
            }
        }
        assert_eq!(net.total(|c| c.refused_ip_connections_total.get()), 8);
        // One of an address goes, and makes room for one.
        let goes = (0..14).find(|n| net.clients[*n].is_open()).unwrap();
        net.cut(goes);
        net.settle();
        let next = way.connect(&mut net, ADDRESSES[goes % 2]);
        net.settle();
        assert!(net.clients[next].is_open(), "{way:?}");
        let late = way.connect(&mut net, ADDRESSES[goes % 2]);
        net.settle();
        assert!(net.clients[late].is_refused(), "{way:?}");
        if net.cores() > 1 {
            asked.set(asked.get() + 1);
        }
        net.end();
    });
    assert!(!all || asked.get() > 0, "there was never another core");
}

#[test]
fn who_vanishes_while_it_is_judged_is_not_counted_for_ever() {
    for_each_seed("worker::tests::origins::who_vanishes", 120, |seed| {
        let way = Way::draw(seed);
        let mut net = Net::new(seed, |config| {
            way.configure(config);
            config.limits.connections_per_ip = 5;
            config.limits.handshakes_per_ip_per_second = 0;
            // Some are not done in time.
            config.limits.handshake_timeout = Span(std::time::Duration::from_millis(40));
        });
        for n in 0..60 {
            let client = way.connect(&mut net, ADDRESSES[n % 2]);
            if net.rng.one_in(8) {
                net.clients[client].cut_off_the_end();
            }
            for _ in 0..net.rng.below(60) {
                net.step();
            }
            if net.rng.one_in(2) {
                let victim = net.rng.below(net.clients.len() as u64) as usize;
                if !net.clients[victim].is_gone && net.clients[victim].end.is_none() {
                    net.cut(victim);
                }
            }
        }
        // Nothing is left of them, in the counts of their addresses either.
        net.end();
    });
}

#[test]
fn the_balancer_itself_counts_for_nobody() {
    for_each_seed("worker::tests::origins::the_balancer", 30, |seed| {
        let way = Way::draw(seed);
        let mut net = Net::new(seed, |config| {
            way.configure(config);
            config.limits.connections_per_ip = 1;
            config.limits.handshakes_per_ip_per_second = 1;
        });
        for n in 0..9 {
            let client = net.connect("/ws", JSON);
            let header: &[u8] = match n % 3 {
                _ if way == Way::Field => b"",
                0 => b"PROXY UNKNOWN\r\n",
                1 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
                _ => b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0cabcdefghijkl",
            };
            if way != Way::Field {
                // Nobody vouches for what such a request says.
                net.clients[client].add_field("Forwarded: for=198.51.100.1");
            }
            net.clients[client].say_first(header);
        }
        net.until_open();
        assert_eq!(net.total(|c| c.forwarded_total.get()), 0);
        assert_eq!(net.total(|c| c.addresses_known.get()), 0);
        net.end();
    });
}

#[test]
fn from_a_balancer_comes_a_header_or_nothing() {
    for_each_seed("worker::tests::origins::from_a_balancer", 30, |seed| {
        let mut net = Net::new(seed, |config| Way::Header.configure(config));
        for first in [&b""[..], b"PROXY TCP9 1\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31"] {
            let client = net.connect("/ws", JSON);
            net.clients[client].say_first(first);
        }
        let mute = net.connect_by(0, "/ws", JSON, false);
        net.clients[mute].say_nothing();
        net.settle();
        net.pass(11_000, 100);
        for client in &net.clients {
            assert_eq!(client.status, None, "there is no answer");
            assert!(client.end.is_some(), "it is closed");
        }
        assert_eq!(net.total(|c| c.proxy_headers_refused_total.get()), 3);
        assert_eq!(net.total(|c| c.handshake_timeouts_total.get()), 1);
        net.end();
    });
}

#[test]
fn who_is_not_trusted_is_not_believed() {
    for_each_seed("worker::tests::origins::who_is_not_trusted", 30, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.client_address = ClientAddress::XForwardedFor;
            config.server.trusted_proxies = vec!["192.168.0.0/16".parse().unwrap()];
            config.server.proxy_protocol = vec!["192.168.0.0/16".parse().unwrap()];
            config.limits.connections_per_ip = 1;
        });
        // On one core, so that they have two addresses.
        let field = net.connect_by(0, "/ws", JSON, false);
        net.clients[field].add_field("X-Forwarded-For: 198.51.100.1");
        let header = net.connect_by(0, "/ws", JSON, false);
        begin(&mut net, header, "198.51.100.1");
        net.settle();
        assert!(net.clients[field].is_open());
        // Its bytes are simply not HTTP.
        assert_eq!(net.clients[header].status, Some(400));
        let counters = |of: fn(&crate::base::counters::Counters) -> u64| net.total(of);
        assert_eq!(counters(|c| c.forwarded_total.get()), 0);
        assert_eq!(counters(|c| c.proxy_headers_total.get()), 0);
        // Each counted for the address it came from.
        let counted: usize = net
            .workers
            .iter()
            .map(|worker| worker.core.addresses.connections())
            .sum();
        assert_eq!(counted, 1);
        net.end();
    });
}

#[test]
fn a_field_that_cannot_be_read_is_refused() {
    for_each_seed("worker::tests::origins::a_field", 10, |seed| {
        let mut net = Net::new(seed, |config| Way::Field.configure(config));
        let client = net.connect("/ws", JSON);
        net.clients[client].add_field("X-Forwarded-For: 198.51.100.1, nobody");
        net.settle();
        assert_eq!(net.clients[client].status, Some(400));
        assert_eq!(net.total(|c| c.forwarded_refused_total.get()), 1);
        net.end();
    });
}
