//! Driver. `eyeline serve`: starts everything in order, says when it is ready, drains on a signal.
//!
//! A port that is taken or a disk that cannot be written ends the start with one clear line. A missing model or
//! ONNX Runtime does not: calls go on without pictures that could not be cleared.

#![expect(clippy::disallowed_methods, reason = "the process takes its clock and its seed at the start")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use rand::TryRngCore as _;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::app::assemble;
use crate::app::cli::FAILED;
use crate::app::config::Loaded;
use crate::app::config::settings::{Agent, Config};
use crate::app::console;
use crate::app::detectors::Detectors;
use crate::app::faces::{Faces, Reaper};
use crate::app::footprint;
use crate::app::gallery::Gallery;
use crate::app::load;
use crate::app::service::{self, Ask, Heartbeat, Signals};
use crate::app::signalling::{self, Order, Signalling};
use crate::app::talkers::Talkers;
use crate::app::watch::{Shared, Watching};
use crate::base::queue::{self, Fifo, Sender};
use crate::base::stop::{Outcome, Scope, joined_thread};
use crate::base::time::Clock;
use crate::call::end::EndReason;
use crate::engine::album::Album;
use crate::engine::pictures::Studio;
use crate::engine::plan::VideoCodec;
use crate::engine::sources::Sources;
use crate::engine::{self, Engines, Speaker};
use crate::useragent::UserAgent;

/// Orders to the control loop that wait.
const ORDERS: usize = 64;
/// The control loop answers what is asked of calls within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Files are closed in it after the last call.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Runs the appliance until it is told to stop. `sip_trace`: how long its SIP messages are shown.
pub fn run(loaded: &Loaded, sip_trace: Option<Duration>) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    service::file_limit_is_an_error();
    service::raise_file_limit();
    footprint::settle();
    match serve(&loaded.config, sip_trace) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eyeline: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn serve(config: &Config, sip_trace: Option<Duration>) -> anyhow::Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start")?;
    let media = media_runtime()?;
    check_disk(config)?;
    // Both take time and need nothing of each other.
    let prober = prove_encoder(config).context("cannot start the encoder proof")?;
    let detectors = Arc::new(Detectors::load(config));
    report_detectors(&detectors);
    let clock = Clock::new(Instant::now(), SystemTime::now());
    let sources = Sources::new(assemble::sources(config, clock, &detectors).map_err(|why| anyhow!(why))?);
    let gallery = runtime.block_on(Gallery::load(config));
    gallery.problems.iter().for_each(|problem| tracing::error!("{problem}: this picture is left out"));
    let studio = gallery.studio.clone();
    let (faces, reaper) = Faces::new(config);
    faces.problems().iter().for_each(|problem| tracing::error!("{problem}"));
    let talkers = Talkers::start(config, clock, gallery, sources, faces);
    talkers.problems().iter().for_each(|problem| tracing::warn!("{problem}"));
    prober.join().map_err(|_| anyhow!("the encoder proof panicked"))??;
    let result = runtime.block_on(run_until_told(
        config,
        (started, clock),
        detectors,
        (talkers, reaper, studio),
        media,
        runtime.handle().clone(),
        sip_trace,
    ));
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// The thread of every call's packets, with real-time priority where the system grants it.
pub fn media_runtime() -> anyhow::Result<Handle> {
    engine::runtime::start(|| {
        if let Err(why) = service::real_time() {
            tracing::warn!("media runs without real-time priority: {why}");
        }
    })
    .context("cannot start the media thread")
}

/// The first proof of an encoder takes some 100 ms; calls must not wait for it.
fn prove_encoder(config: &Config) -> std::io::Result<JoinHandle<anyhow::Result<()>>> {
    let wanted = !config.media.video_codecs.is_empty();
    let vp8 = config.media.video_codecs.contains(&VideoCodec::Vp8);
    let setting = crate::app::config::settings::Word::word(config.video.encoder);
    joined_thread("encoder-proof", move || {
        if !wanted {
            return Ok(());
        }
        for bounded in [false, true] {
            let kind = assemble::choose_encoder(setting, bounded).map_err(|why| anyhow!(why))?;
            let mode = if bounded { 0 } else { 1 };
            tracing::info!("H.264 for packetization-mode {mode}: {} has proved itself", kind.name());
        }
        if vp8 {
            // Without it VP8 is received only, which the proof says itself.
            let _ = crate::codec::vp8::proven();
        }
        Ok(())
    })
}

fn check_disk(config: &Config) -> anyhow::Result<()> {
    for name in config.routes.iter().filter_map(|route| route.record.as_ref()) {
        let Some(recording) = config.recording.get(name) else { continue };
        let folder = config.recordings_dir(recording);
        std::fs::create_dir_all(&folder).and_then(|()| tempfile_in(&folder)).with_context(|| {
            format!(
                "recordings cannot be written to {}: check the folder's owner, set recording.dir, or \
                     recording.enabled = false",
                folder.display()
            )
        })?;
    }
    Ok(())
}

fn tempfile_in(folder: &std::path::Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".eyeline-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

fn report_detectors(detectors: &Detectors) {
    for (target, problem) in detectors.target_states() {
        if let Some(problem) = problem {
            tracing::error!(
                "{target} cannot be hidden, so no picture will be shown on censored routes: {problem}"
            );
        }
    }
    for (name, problem) in detectors.detector_states() {
        match problem {
            Some(problem) => tracing::warn!("detector {name} is off: {problem}"),
            None => tracing::info!("detector {name} is loaded"),
        }
    }
}

/// Random bytes for one purpose.
pub fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed).context("the system gives no random bytes")?;
    Ok(seed)
}

async fn run_until_told(
    config: &Config,
    (started, clock): (Instant, Clock),
    detectors: Arc<Detectors>,
    (talkers, reaper, studio): (Talkers, Option<Reaper>, Studio),
    media: Handle,
    handle: Handle,
    sip_trace: Option<Duration>,
) -> anyhow::Result<()> {
    let mut scope = Scope::new("serve", handle.clone());
    let mut signals = Signals::new().context("cannot take signals")?;
    let choice = u64::from_le_bytes(seed()?.first_chunk().copied().unwrap_or_default());
    let sockets = assemble::sockets(config, choice);
    let sip = Signalling::bind(sockets, Scope::new("sip", handle.clone())).await?;
    let mut settings = assemble::user_agent(config, &detectors, &talkers).map_err(|why| anyhow!(why))?;
    let dtls = assemble::dtls();
    settings.media.dtls_fingerprint = dtls.as_ref().map(|identity| identity.fingerprint());
    settings.registrar.clock = Some(clock);
    let agent = UserAgent::new(settings, seed()?);
    let album = studio.album.clone();
    let engine_settings = engine::Settings {
        rtp_ports: config.media.rtp_ports,
        seed: seed()?,
        clock,
        cname: assemble::cname(config, config.sip.advertise),
        catalogue: detectors.clone(),
        dtls,
        choose_encoder: assemble::choose_encoder,
        studio,
    };
    let sources = talkers.sources().clone();
    sources.start(&engine_settings.catalogue, &mut scope);
    let (engines, events) = Engines::new(engine_settings, media, handle.clone());
    if let Some(reaper) = reaper {
        scope.task_until_stopped("avatars", reaper.run());
    }
    prepare_greetings(&mut scope, config, engines.speaker());
    let heartbeat = Heartbeat::new(Instant::now());
    let shared = Arc::new(Shared::new(config.appliance.name.clone(), started, heartbeat.clone()));
    let (orders, given) = queue::queue(Fifo { depth: ORDERS });
    let reins = reins(orders.clone(), album, sources);
    serve_console(config, &mut scope, shared.clone(), reins).await?;
    service::watch(&mut scope, heartbeat);
    let watch = Watching::new(config, clock, detectors, shared, &sip, talkers.faces().clone(), handle);
    if let Some(length) = sip_trace {
        sip.tracer().start(Instant::now(), length, &mut scope);
    }
    scope.task_until_stopped("load", load::sample(orders.clone()));
    let bound: Vec<String> =
        sip.bound().iter().map(|(t, a)| format!("{}:{a}", t.name().to_lowercase())).collect();
    service::ready(&format!("taking calls on {}", bound.join(", ")));
    tracing::info!("ready after {} ms, taking calls on {}", started.elapsed().as_millis(), bound.join(", "));
    let token = scope.token();
    scope.thread("footprint", move || footprint::keep_small(&token));
    let drain = config.appliance.drain;
    // A task like the readers that wake it: what comes is handled on the thread that read it.
    let (tell, over) = oneshot::channel();
    let control = signalling::run(sip, agent, engines, events, given, Box::new(watch));
    scope.task("control", async move {
        let _ = tell.send(control.await);
        Outcome::Done
    });
    let obedience = async {
        obey_signals(&mut signals, &orders, drain).await;
        std::future::pending::<()>().await;
    };
    let watch = tokio::select! {
        watch = over => Some(watch),
        () = obedience => None,
    };
    let broke = matches!(watch, Some(Err(_)));
    if let Some(Ok(watch)) = watch {
        watch.close(CLOSE_LIMIT).await;
    }
    scope.close(Duration::from_millis(200)).await;
    anyhow::ensure!(!broke, "the control loop broke: a bug");
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains, the next one hurries; both close the files.
async fn obey_signals(signals: &mut Signals, orders: &Sender<Order, Fifo>, drain: Duration) {
    while signals.next().await == Ask::Reload {
        orders.offer(Order::ReadCertificates);
    }
    service::stopping(drain + CLOSE_LIMIT);
    tracing::info!("stopping: no new calls, running ones may go on for {} s", drain.as_secs());
    orders.offer(Order::Drain);
    orders.offer(Order::Finish);
    tokio::select! {
        () = tokio::time::sleep(drain) => {}
        ask = hurried(signals) => tracing::info!("stopping now: {ask:?}"),
    }
    orders.offer(Order::HangUpAll(EndReason::Shutdown));
}

async fn hurried(signals: &mut Signals) -> Ask {
    loop {
        let ask = signals.next().await;
        if ask != Ask::Reload {
            return ask;
        }
    }
}

async fn serve_console(
    config: &Config,
    scope: &mut Scope,
    shared: Arc<Shared>,
    reins: console::Reins,
) -> anyhow::Result<()> {
    let Some(address) = config.console.listen else { return Ok(()) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("the console cannot listen on {address}: is something else there? Change console.listen")
    })?;
    let (settings, stop) = (config.console.clone(), scope.token());
    let source: console::Source = Arc::new(move || shared.snapshot(Instant::now()));
    scope.task("console", async move {
        console::serve(listener, &settings, source, Some(reins), stop).await;
        Outcome::Done
    });
    Ok(())
}

/// The control loop as the console asks it.
fn reins(orders: Sender<Order, Fifo>, album: Album, sources: Sources) -> console::Reins {
    let (traced, pictured) = (orders.clone(), orders.clone());
    console::Reins {
        controller: Arc::new(move |asked| {
            let (reply, answer) = oneshot::channel();
            orders.offer(Order::Control { asked, reply });
            Box::pin(async move { tokio::time::timeout(ANSWER_LIMIT, answer).await.ok()?.ok() })
        }),
        trace: Arc::new(move |length| {
            traced.offer(Order::Trace(length));
        }),
        sources,
        pictures: Arc::new(move |of| {
            let (reply, answer) = oneshot::channel();
            pictured.offer(Order::Pictures { of, reply });
            Box::pin(async move { tokio::time::timeout(ANSWER_LIMIT, answer).await.ok()?.ok() })
        }),
        album,
    }
}

/// Spoken once at the start, so that no caller waits for the first time.
fn prepare_greetings(scope: &mut Scope, config: &Config, speaker: Speaker) {
    let greetings: Vec<String> = config
        .agents
        .values()
        .filter_map(|agent| match agent {
            Agent::Mirror { greeting, .. } if !greeting.is_empty() => Some(greeting.clone()),
            Agent::Mirror { .. }
            | Agent::Record { .. }
            | Agent::Pipeline(_)
            | Agent::Realtime(_)
            | Agent::Avatar(_) => None,
        })
        .collect();
    let codecs = config.media.audio_codecs.iter();
    let rates: BTreeSet<u32> = codecs.map(|codec| codec.sample_rate()).collect();
    scope.thread("greetings", move || {
        for greeting in greetings {
            rates.iter().for_each(|rate| drop(speaker.say(&greeting, *rate)));
        }
        Outcome::Done
    });
}
