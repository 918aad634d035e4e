//! Connections to other executors, from which results are fetched: one for many fetches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;
use parking_lot::Mutex;

/// A connection that nobody uses for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Connections that nobody uses at the moment, by host and port.
type Idle = Mutex<HashMap<(String, u16), Vec<(BallistaClient, Instant)>>>;

/// What Ballista (55) has of its own cannot be used beside an engine of one's own.
#[derive(Default)]
pub(super) struct Pool(Arc<Idle>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

#[async_trait]
impl BallistaClientPool for Pool {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        self.evict_idle().await;
        let key = (host.to_owned(), port);
        let idle = self.0.lock().get_mut(&key).and_then(Vec::pop);
        let client = match idle {
            Some((client, _)) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let all = Arc::clone(&self.0);
        // One that is discarded does not come back.
        let give_back = move |client| all.lock().entry(key).or_default().push((client, Instant::now()));
        Ok(PooledClient::new(client, Box::new(give_back)))
    }

    async fn evict_idle(&self) {
        self.0.lock().retain(|_, clients| {
            clients.retain(|(_, since)| since.elapsed() < IDLE);
            !clients.is_empty()
        });
    }
}
