//! The port of an executor: tasks come in there, and results are fetched.
//!
//! Ballista's (55) own port for tasks knows neither tokens nor TLS. It is on the loopback address, and tasks reach it from here.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use async_trait::async_trait;
use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
use ballista_core::serde::protobuf::executor_grpc_server::{ExecutorGrpc, ExecutorGrpcServer};
use ballista_core::serde::protobuf::{
    CancelTasksParams, CancelTasksResult, KeyValuePair, LaunchMultiTaskParams, LaunchMultiTaskResult, LaunchTaskParams,
    LaunchTaskResult, RemoveJobDataParams, RemoveJobDataResult, StopExecutorParams, StopExecutorResult,
};
use ballista_core::serde::scheduler::TaskKey;
use ballista_core::utils::{GrpcServerConfig, create_grpc_server};
use ballista_executor::flight_service::BallistaFlightService;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::Protection;
use super::cancel::Known;
use super::job::is_of_machines;
use super::limits::MOST_BYTES;
use crate::error::Error;

/// Serves an executor on a port until the process ends: its results are in a folder, it takes tasks on a port of the loopback
/// address, and somebody hears of them.
pub(super) async fn serve(
    listener: TcpListener,
    folder: String,
    tasks: u16,
    known: Arc<Known>,
    protection: &Protection,
) -> Result<(), Error> {
    let wrong = |error: tonic::transport::Error| Error::Setting(format!("executor: {error}"));
    let tasks = Endpoint::from_shared(format!("http://127.0.0.1:{tasks}")).map_err(wrong)?.connect_lazy();
    let tasks =
        ExecutorGrpcClient::new(tasks).max_encoding_message_size(MOST_BYTES).max_decoding_message_size(MOST_BYTES);
    let tasks = ExecutorGrpcServer::new(TasksPort { tasks, known })
        .max_decoding_message_size(MOST_BYTES)
        .max_encoding_message_size(MOST_BYTES);
    let results = FlightServiceServer::new(BallistaFlightService::new(folder))
        .max_decoding_message_size(MOST_BYTES)
        .max_encoding_message_size(MOST_BYTES);
    let mut server = protection.server(create_grpc_server(&GrpcServerConfig::default()))?;
    let server = server
        .add_service(InterceptedService::new(tasks, protection.check()))
        .add_service(InterceptedService::new(results, protection.check()));
    let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.serve_with_incoming(connections).await.map_err(wrong)
}

/// What is this machine's own is not set by a task: a scheduler sends all settings, with their defaults.
fn keep_own(settings: &mut Vec<KeyValuePair>) {
    settings.retain(|setting| !is_of_machines(&setting.key));
}

/// Ballista's own port for tasks, behind this one.
struct TasksPort {
    tasks: ExecutorGrpcClient<Channel>,
    known: Arc<Known>,
}

fn key(job_id: &str, stage_id: u32, task_id: u32) -> TaskKey {
    TaskKey { job_id: job_id.to_owned().into(), stage_id: stage_id as usize, task_id: task_id as usize }
}

#[async_trait]
impl ExecutorGrpc for TasksPort {
    async fn launch_task(&self, request: Request<LaunchTaskParams>) -> Result<Response<LaunchTaskResult>, Status> {
        let mut tasks = request.into_inner();
        for task in &mut tasks.tasks {
            keep_own(&mut task.props);
            self.known.comes(key(&task.job_id, task.stage_id, task.task_id), task.stage_attempt_num);
        }
        self.tasks.clone().launch_task(tasks).await
    }

    async fn launch_multi_task(
        &self,
        request: Request<LaunchMultiTaskParams>,
    ) -> Result<Response<LaunchMultiTaskResult>, Status> {
        let mut tasks = request.into_inner();
        for several in &mut tasks.multi_tasks {
            keep_own(&mut several.props);
            for task in &several.task_ids {
                self.known.comes(key(&several.job_id, several.stage_id, task.task_id), several.stage_attempt_num);
            }
        }
        self.tasks.clone().launch_multi_task(tasks).await
    }

    async fn stop_executor(
        &self,
        request: Request<StopExecutorParams>,
    ) -> Result<Response<StopExecutorResult>, Status> {
        self.tasks.clone().stop_executor(request.into_inner()).await
    }

    async fn cancel_tasks(&self, request: Request<CancelTasksParams>) -> Result<Response<CancelTasksResult>, Status> {
        let tasks = request.into_inner();
        self.known.cancel(tasks.task_infos.iter().map(|task| key(&task.job_id, task.stage_id, task.task_id)));
        self.tasks.clone().cancel_tasks(tasks).await
    }

    async fn remove_job_data(
        &self,
        request: Request<RemoveJobDataParams>,
    ) -> Result<Response<RemoveJobDataResult>, Status> {
        self.tasks.clone().remove_job_data(request.into_inner()).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow_flight::FlightDescriptor;
    use arrow_flight::flight_service_client::FlightServiceClient;
    use tonic::Code;

    use super::*;

    /// What the two services of a port say to somebody who asks for nothing, if he is let in.
    async fn asked(protection: &Protection, port: u16) -> Option<[Code; 2]> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        let channel = protection.endpoint(endpoint).expect("an endpoint").connect().await.ok()?;
        let results = FlightServiceClient::new(channel.clone()).get_schema(FlightDescriptor::default()).await;
        let tasks = ExecutorGrpcClient::new(channel).cancel_tasks(CancelTasksParams::default()).await;
        Some([results.expect_err("nothing is there").code(), tasks.expect_err("nobody is there").code()])
    }

    #[tokio::test]
    async fn results_and_tasks_are_for_those_who_show_what_is_asked() {
        let none = Protection::default();
        let with = |protection: &Protection, folder: &str| {
            protection.clone().with_certificates(Path::new(folder)).expect("certificates")
        };
        let token = none.clone().with_token("a token of a test").expect("a token");
        let other = none.clone().with_token("another token of a test").expect("a token");
        let (tls, others) = ("tests/fixtures/tls", "tests/fixtures/tls/other");
        for (right, wrong) in [
            (none.clone(), vec![]),
            (token.clone(), vec![none.clone(), other.clone()]),
            (with(&none, tls), vec![none.clone(), token.clone(), with(&none, others)]),
            (with(&token, tls), vec![token.clone(), with(&none, tls), with(&other, tls), with(&token, others)]),
        ] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let protection = right.clone();
            // Nobody takes tasks on port 1.
            let served =
                tokio::spawn(
                    async move { serve(listener, "/nowhere".to_owned(), 1, Arc::default(), &protection).await },
                );
            assert_eq!(asked(&right, port).await, Some([Code::Unimplemented, Code::Unavailable]), "{right:?}");
            for wrong in wrong {
                let said = asked(&wrong, port).await;
                let is_refused = said.is_none_or(|said| {
                    said == [Code::Unauthenticated; 2]
                        || said.iter().all(|code| matches!(code, Code::Unavailable | Code::Unknown))
                });
                assert!(is_refused, "{right:?}, {wrong:?}: {said:?}");
            }
            served.abort();
        }
    }
}
