//! HAProxy and nginx in front of the gateway, as operators set them up: they name the clients, in
//! PROXY headers of both versions and in `X-Forwarded-For`.

mod common;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    DEADLINE, Server,
    raw::{FIN, Raw, TEXT, frame, upgrade_request_with},
};

/// A balancer that runs. Dropping it ends it.
struct Balancer(Child);

impl Balancer {
    /// Starts `program`, and waits until it listens at all of `ports`.
    fn start(program: &str, args: &[&str], ports: &[SocketAddr]) -> Self {
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; `tests/run --setup` installs it"));
        let balancer = Self(child);
        let end = Instant::now() + DEADLINE;
        for port in ports {
            while TcpStream::connect(port).is_err() {
                assert!(Instant::now() < end, "{program} does not listen at {port}");
                thread::sleep(Duration::from_millis(5));
            }
        }
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The gateway behind one that connects from 127.0.0.2 to pass TCP on, and from 127.0.0.3 with
/// requests.
fn gateway() -> Server {
    let settings = [
        "server.proxy_protocol=[\"127.0.0.2/32\"]",
        "server.client_address=x-forwarded-for",
        "server.trusted_proxies=[\"127.0.0.3/32\"]",
        "limits.connections_per_ip=2",
        "limits.handshakes_per_ip_per_second=0",
        "limits.ip_exempt=[]",
    ];
    let mut args = vec!["--demo"];
    for setting in settings {
        args.extend_from_slice(&["--set", setting]);
    }
    Server::quiet(&args)
}

/// Ports that are free at the moment.
fn ports<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("balancers-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

/// Two of each address are let in behind `entry`, wherever they say that they come from.
fn each_counts_for_itself(server: &Server, entry: SocketAddr) {
    let mut held = Vec::new();
    for host in [21, 22, 23] {
        for n in 0..3 {
            let mut raw = Raw::connect_from(host, entry);
            let spoof = format!("X-Forwarded-For: 203.0.113.{n}\r\n");
            raw.send(upgrade_request_with("/echo", &spoof).as_bytes());
            let status = raw.response().status;
            assert_eq!(status, [101, 101, 429][n], "{entry}: {host}, number {n}");
            if status == 101 {
                raw.send(&frame(FIN | TEXT, b"through"));
                assert_eq!(raw.expect_text(), "through");
                held.push(raw);
            }
        }
    }
    drop(held);
    // A balancer's own checks come and go: now and then there is none.
    server.wait_blocking("everyone is gone", |c| c.total("connections_open") == 0);
}

#[test]
fn haproxy_names_the_clients() {
    let server = gateway();
    let entries: [SocketAddr; 3] = ports();
    let [v1, v2, http] = entries;
    let to = server.addr;
    let file = directory("haproxy").join("haproxy.cfg");
    let text = format!(
        "defaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    \
         timeout tunnel 60s\n\
         listen v1\n    mode tcp\n    bind {v1}\n    \
         server gateway {to} source 127.0.0.2 send-proxy\n\
         listen v2\n    mode tcp\n    bind {v2}\n    unique-id-format %pid-%rt\n    \
         option httpchk GET /readyz\n    \
         server gateway {to} source 127.0.0.2 send-proxy-v2 \
         proxy-v2-options ssl,cert-cn,authority,crc32c,unique-id check inter 50ms check-send-proxy\n\
         listen http\n    mode http\n    bind {http}\n    option forwardfor\n    \
         server gateway {to} source 127.0.0.3\n"
    );
    fs::write(&file, text).expect("the target directory can be written");
    let file = file.to_str().expect("the target directory is UTF-8");
    let _haproxy = Balancer::start("haproxy", &["-db", "-q", "-f", file], &entries);
    // Its checks are its own, and come all the time.
    server.wait_blocking("some checks", |c| c.total("proxy_headers_total") > 10);
    for entry in entries {
        each_counts_for_itself(&server, entry);
    }
    let counters = server.counters();
    assert_eq!(counters.total("proxy_headers_refused_total"), 0);
    assert_eq!(counters.total("refused_ip_connections_total"), 9);
}

#[test]
fn nginx_names_the_clients() {
    let server = gateway();
    let entries: [SocketAddr; 2] = ports();
    let [v1, http] = entries;
    let to = server.addr;
    let directory = directory("nginx");
    let at = directory.to_str().expect("the target directory is UTF-8");
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() {
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let text = format!(
        "{load}daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 256; }}\n\
         stream {{ server {{ listen {v1}; proxy_pass {to}; proxy_bind 127.0.0.2; \
         proxy_protocol on; }} }}\n\
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; \
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
         server {{ listen {http}; location / {{ proxy_pass http://{to}; proxy_bind 127.0.0.3; \
         proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).expect("the target directory can be written");
    let file = file.to_str().expect("the target directory is UTF-8");
    let args = ["-p", at, "-e", "stderr", "-c", file];
    let _nginx = Balancer::start("nginx", &args, &entries);
    for entry in entries {
        each_counts_for_itself(&server, entry);
    }
    let counters = server.counters();
    assert_eq!(counters.total("proxy_headers_refused_total"), 0);
    assert_eq!(counters.total("refused_ip_connections_total"), 6);
}
