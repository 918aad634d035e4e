//! A web server that many run: nginx, where it is installed.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, thread};

use super::process::Process;
use crate::support::skipped;

/// `/` has parts of files, `/whole/` has none, `/zipped/` sends them encoded whoever asks, `/moved/` is elsewhere, and `/mine/` is for
/// those with a header of authorization.
const CONFIGURATION: &str = r#"
master_process off; daemon off; pid pid; error_log stderr;
events {}
http {
    access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    server {
        listen 127.0.0.1:PORT;
        root FILES;
        location /whole/ { alias FILES/; max_ranges 0; }
        location /zipped/ { alias FILES/; add_header Content-Encoding gzip; }
        location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }
        location /mine/ { alias FILES/; if ($http_authorization != "Bearer hush-hush") { return 401; } }
    }
}
"#;

/// Serves the files of a folder; `None` where nginx is not installed.
pub(crate) fn start(files: &Path) -> Option<Process> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let Some(program) = places.map(|folder| folder.join("nginx")).find(|place| place.exists()) else {
        skipped("nginx", "install it by the packages of this system");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let configuration = CONFIGURATION.replace("PORT", &port.to_string()).replace("FILES", &files.display().to_string());
    let script =
        r#"printf '%s' "$1" > nginx.conf; echo "http://127.0.0.1:$2 "; exec "$0" -p . -c nginx.conf -e stderr"#;
    let server = Process::start(
        Path::new("sh"),
        &["-c", script, &program.display().to_string(), &configuration, &port.to_string()],
    );
    while TcpStream::connect(server.address).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    Some(server)
}
