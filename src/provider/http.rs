//! Requests to token providers. A helper thread talks to the network and never touches PostgreSQL; the session waits
//! for it on a pipe, so that whatever interrupts a session interrupts this, too.

use crate::core::provider::outage::Outage;
use crate::pg::sys::{thread, wait};
use crate::pg::{guc, shared};
use crate::{files, settings};
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, ErrorKind, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant, SystemTime};
use ureq::config::Config;
use ureq::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use ureq::http::{HeaderValue, Method, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector,
    Transport,
};
use ureq::{Agent, Body, Proxy};
use zeroize::Zeroizing;

const MAX_BODY_BYTES: u64 = 1024 * 1024;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// How many threads of one session may hang at a time: one that waits for a name, or for a connection, cannot be
/// interrupted before its time limit.
const MAX_THREADS: usize = 8;

/// A keep-alive connection is not used again after this time.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// What to ask. GET without a form, POST with one.
pub struct Request {
    pub url: String,
    /// Value of the header `Authorization`.
    pub authorization: Option<Zeroizing<String>>,
    /// Body of type `application/x-www-form-urlencoded`.
    pub form: Option<Zeroizing<String>>,
}

pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    pub cache_control: Option<String>,
}

/// Sends a request and waits for the answer, up to `bodata.api_timeout` in all.
pub fn fetch(request: Request) -> Result<Reply, Outage> {
    let begun = Instant::now();
    let answer = exchange(request, begun + settings::api_timeout());
    shared::counters().provider_called(begun.elapsed(), answer.is_ok());
    answer
}

fn exchange(request: Request, deadline: Instant) -> Result<Reply, Outage> {
    let line = Line::current()?;
    let exchange = Arc::new(Exchange::default());
    let (done, closes_when_done) = io::pipe().map_err(|_| Outage::NoResources)?;
    start(line.clone(), request, Arc::clone(&exchange), closes_when_done)?;
    let pending = Pending { line: Some(line), exchange: &exchange };
    if !wait::until_readable(done.as_fd(), deadline) {
        return Err(Outage::Timeout);
    }
    pending.finished();
    let answer = exchange.state.lock().answer.take();
    answer.unwrap_or(Err(Outage::NoResources))
}

/// Sends a request whose answer nobody waits for.
pub fn send(request: Request) {
    // Without a thread now, there will be another time.
    let _ = detach(move |ask| drop(ask(&request)));
}

/// Lets a helper thread make requests, for which this session need not wait. Like all of them it must not touch PostgreSQL.
pub fn detach(
    work: impl FnOnce(&dyn Fn(&Request) -> Result<Reply, Outage>) + Send + 'static,
) -> Result<(), Outage> {
    let line = Line::current()?;
    spawn(move || work(&|request| converse(&line, request, &Exchange::default())))
}

fn start(
    line: Line,
    request: Request,
    exchange: Arc<Exchange>,
    closes_when_done: PipeWriter,
) -> Result<(), Outage> {
    spawn(move || {
        let answer = converse(&line, &request, &exchange);
        exchange.state.lock().answer = Some(answer);
        drop(closes_when_done);
    })
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Outage> {
    let Some(slot) = ThreadPermit::take() else { return Err(Outage::Busy) };
    let work = move || {
        work();
        drop(slot);
    };
    if thread::spawn("immuta_ext http", work) { Ok(()) } else { Err(Outage::NoResources) }
}

/// What the session and the thread share.
#[derive(Default)]
struct Exchange {
    state: Mutex<ExchangeState>,
    changed: Condvar,
}

#[derive(Default)]
struct ExchangeState {
    answer: Option<Result<Reply, Outage>>,
    is_abandoned: bool,
}

impl Exchange {
    /// Lets time pass; whether the session still waits then.
    fn pause(&self, span: Duration) -> bool {
        let end = Instant::now() + span;
        let mut state = self.state.lock();
        while !state.is_abandoned && !self.changed.wait_until(&mut state, end).timed_out() {}
        !state.is_abandoned
    }
}

/// A request under way. If the session leaves (by an error, or because the time is over), connections are shut down,
/// so that the thread ends, too.
struct Pending<'a> {
    line: Option<Line>,
    exchange: &'a Exchange,
}

impl Pending<'_> {
    fn finished(mut self) {
        self.line = None;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        self.exchange.state.lock().is_abandoned = true;
        self.exchange.changed.notify_all();
        Line::forget();
        line.agent.shutdown();
    }
}

/// One of the threads that may be.
struct ThreadPermit;

static THREADS: AtomicUsize = AtomicUsize::new(0);

impl ThreadPermit {
    fn take() -> Option<ThreadPermit> {
        let slot = ThreadPermit;
        // Dropped if it is one too many.
        (THREADS.fetch_add(1, Relaxed) < MAX_THREADS).then_some(slot)
    }
}

impl Drop for ThreadPermit {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Relaxed);
    }
}

/// What a connection depends on.
#[derive(Clone, PartialEq)]
struct Setup {
    timeout: Duration,
    connect_timeout: Duration,
    ca_file: String,
    proxy: String,
    /// Files are read again after a reload.
    loaded: i64,
}

/// The agent of this session, with its one idle connection.
#[derive(Clone)]
struct Line {
    setup: Setup,
    agent: Agent,
    /// Whether anything was received since this was last cleared.
    has_answered: Arc<AtomicBool>,
}

thread_local! {
    static LINE: RefCell<Option<Line>> = const { RefCell::new(None) };
}

impl Line {
    fn current() -> Result<Line, Outage> {
        let setup = Setup {
            timeout: settings::api_timeout(),
            connect_timeout: settings::api_connect_timeout(),
            ca_file: settings::api_ca_file(),
            proxy: settings::api_proxy(),
            loaded: guc::reload_time(),
        };
        if let Some(line) = LINE.with_borrow(|line| line.clone().filter(|line| line.setup == setup)) {
            return Ok(line);
        }
        let line = Line::open(setup)?;
        LINE.set(Some(line.clone()));
        Ok(line)
    }

    fn forget() {
        LINE.set(None);
    }

    fn open(setup: Setup) -> Result<Line, Outage> {
        let roots = if setup.ca_file.is_empty() {
            RootCerts::WebPki
        } else {
            let found = files::certificates(&setup.ca_file);
            RootCerts::new_with_certs(&found.map_err(|why| Outage::File("bodata.api_ca_file", why))?)
        };
        let proxy =
            if setup.proxy.is_empty() { None } else { Some(Proxy::new(&setup.proxy).map_err(|_| Outage::Proxy)?) };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .timeout_global(Some(setup.timeout))
            .timeout_resolve(Some(setup.connect_timeout))
            .timeout_connect(Some(setup.connect_timeout))
            .max_response_header_size(MAX_HEADER_BYTES)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(MAX_IDLE)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .user_agent(concat!("immuta_ext/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .build();
        let has_answered = Arc::new(AtomicBool::new(false));
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(RustlsConnector::default())
                .chain(Watch(Arc::clone(&has_answered)));
        let agent = Agent::with_parts(config, connector, NameResolver(DefaultResolver::default()));
        Ok(Line { setup, agent, has_answered })
    }
}

/// Talks to the provider, on the helper thread: asks a second time, once, if the first was in vain but the second
/// may not be.
fn converse(line: &Line, request: &Request, exchange: &Exchange) -> Result<Reply, Outage> {
    let started = Instant::now();
    let first = attempt(line, request);
    let Err((outage, Some(delay))) = first else { return first.map_err(|(outage, _)| outage) };
    let left = line.setup.timeout.saturating_sub(started.elapsed());
    if delay >= left || !exchange.pause(delay) {
        return Err(outage);
    }
    attempt(line, request).map_err(|(outage, _)| outage)
}

/// One request; on failure, how long to wait before it is worth another try, if it is.
fn attempt(line: &Line, request: &Request) -> Result<Reply, (Outage, Option<Duration>)> {
    line.has_answered.store(false, Relaxed);
    let mut response = match call(line, request) {
        Ok(response) => response,
        Err(error) => {
            let is_lost = matches!(&error, ureq::Error::Io(error) if is_reset(error.kind()));
            let again = is_lost && !line.has_answered.load(Relaxed);
            return Err((outage(error), again.then(|| jitter(Duration::from_millis(20)))));
        }
    };
    let status = response.status().as_u16();
    if let (429 | 503, Some(delay)) = (status, retry_after(response.headers())) {
        return Err((Outage::Status(status), Some(jitter(delay))));
    }
    let cache_control = response.headers().get(CACHE_CONTROL);
    let cache_control = cache_control.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_vec();
    match body {
        Ok(body) => Ok(Reply { status, body, cache_control }),
        Err(error) => Err((outage(error), None)),
    }
}

fn call(line: &Line, request: &Request) -> Result<Response<Body>, ureq::Error> {
    let mut builder = ureq::http::Request::builder().uri(&request.url);
    if let Some(authorization) = &request.authorization {
        let mut authorization = HeaderValue::from_str(authorization).map_err(ureq::http::Error::from)?;
        authorization.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, authorization);
    }
    match &request.form {
        None => line.agent.run(builder.method(Method::GET).body(())?),
        Some(form) => {
            let builder = builder.method(Method::POST).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            line.agent.run(builder.body(form.as_bytes())?)
        }
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof | NotConnected)
}

/// What a failure of ureq means.
fn outage(error: ureq::Error) -> Outage {
    use ureq::Error::*;
    match error {
        Timeout(_) => Outage::Timeout,
        HostNotFound => Outage::NameNotFound,
        ConnectProxyFailed(_) | InvalidProxyUrl => Outage::Proxy,
        BodyExceedsLimit(_) | LargeResponseHeader(..) => Outage::TooLarge,
        Tls(_) | Rustls(_) | Pem(_) | TlsRequired | RequireHttpsOnly(_) => Outage::Tls,
        Io(error) => match error.kind() {
            // How rustls reports a handshake that failed, certificates included.
            ErrorKind::InvalidData => Outage::Tls,
            ErrorKind::TimedOut => Outage::Timeout,
            kind if is_reset(kind) => Outage::ConnectionLost,
            _ => Outage::Unreachable,
        },
        ConnectionFailed => Outage::Unreachable,
        _ => Outage::NotHttp,
    }
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

/// Up to 50 ms more, so that sessions that failed together do not come back together.
fn jitter(delay: Duration) -> Duration {
    delay.saturating_add(Duration::from_millis(RandomState::new().hash_one(0) % 50))
}

/// Failing to find a name is no failure of a connection.
#[derive(Debug)]
struct NameResolver(DefaultResolver);

impl Resolver for NameResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })
    }
}

/// Notes that something was received: what was not answered at all may be asked again.
#[derive(Debug)]
struct Watch(Arc<AtomicBool>);

#[derive(Debug)]
struct Watched<T> {
    transport: T,
    has_answered: Arc<AtomicBool>,
}

impl<In: Transport> Connector<In> for Watch {
    type Out = Watched<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Watched<In>>, ureq::Error> {
        Ok(chained.map(|transport| Watched { transport, has_answered: Arc::clone(&self.0) }))
    }
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.transport.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let received = self.transport.await_input(timeout)?;
        if received {
            self.has_answered.store(true, Relaxed);
        }
        Ok(received)
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}
