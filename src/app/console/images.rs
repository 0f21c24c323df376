//! Driver. Pictures over HTTP: given to a call's agent, shown to its caller, listed; captions on demand.
//!
//! Bodies that hold pictures are large: few are read at a time. What is in them is opened and cleared by
//! `engine::pictures`; here it is only taken in, and what came of it written as an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::SemaphorePermit;

use super::control::{Fields, Wrong, body_of, foreign, is_foreign, media_type, read, read_up_to};
use super::{Reins, Shared};
use crate::app::signalling::PicturesOf;
use crate::codec::still::decode::Unusable;
use crate::engine::album::Kept;
use crate::engine::pictures::{LIMITS, NotTaken, Pictures, Which};
use crate::engine::talk::picturing::time_of;
use crate::talk::link::fetch::NotFetched;
use crate::talk::message::{Message, Role};
use crate::talk::sight::given::{BadPlace, Place};
use crate::useragent::control::Refused;

/// Where the pictures of a call are handled; `None`: the control loop does not answer.
pub type PictureSource = Arc<
    dyn Fn(PicturesOf) -> Pin<Box<dyn Future<Output = Option<Result<Arc<Pictures>, Refused>>> + Send>>
        + Send
        + Sync,
>;

/// A picture of the largest size in base64, and what stands around it.
pub(super) const LARGE_BODY: usize = LIMITS.bytes / 3 * 4 + (256 << 10);
/// Large bodies read at a time.
pub(super) const LARGE_AT_ONCE: usize = 4;
/// Bodies up to this may come in any number.
const SMALL_BODY: u64 = 64 * 1024;
/// From the body's end to the answer: a URL is fetched, a picture opened and cleared.
const WORK_LIMIT: Duration = Duration::from_secs(15);
/// Messages an agent is told before its call, and letters of each.
const CONTEXT_MAX: usize = 16;
const TEXT_MAX: usize = 4_000;
/// The longest time a picture is shown for, in seconds.
const SECONDS_MAX: u64 = 24 * 3600;

/// A place among the large bodies, where this is one or does not say how large it is.
pub(super) fn room_for<'a>(
    shared: &'a Shared,
    request: &Request,
) -> Result<Option<SemaphorePermit<'a>>, Wrong> {
    let said =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if said.is_some_and(|said: u64| said > LARGE_BODY as u64) {
        let text = format!("the body is larger than {LARGE_BODY} bytes");
        return Err(Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text));
    }
    if said.is_some_and(|said| said <= SMALL_BODY) {
        return Ok(None);
    }
    shared.large.try_acquire().map(Some).map_err(|_| busy())
}

fn busy() -> Wrong {
    Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many pictures are being taken: try again")
}

async fn pictures_of(shared: &Shared, of: PicturesOf) -> Result<Arc<Pictures>, Wrong> {
    let Some(Reins { pictures, .. }) = &shared.reins else {
        let text = "calls cannot be controlled here";
        return Err(Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text));
    };
    let ended = match &of {
        PicturesOf::Call(id) => (shared.source)().recent.iter().any(|call| call.id == *id),
        PicturesOf::Agent(_) => false,
    };
    match pictures(of).await {
        Some(Ok(pictures)) => Ok(pictures),
        Some(Err(refused)) if refused.code == "unknown_call" && ended => {
            Err(Wrong::new(StatusCode::CONFLICT, "wrong_state", "the call has ended"))
        }
        Some(Err(refused)) => Err(refused.into()),
        None => {
            let text = "the control loop does not answer: try again";
            Err(Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "busy", text))
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, NotTaken>>) -> Result<T, Wrong> {
    match tokio::time::timeout(WORK_LIMIT, work).await {
        Ok(done) => done.map_err(Wrong::from),
        Err(_) => {
            Err(Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "too_slow", "it takes too long: try again"))
        }
    }
}

/// POST /api/v1/calls/{id}/images
pub(super) async fn give(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let given = async {
        let _room = room_for(&shared, &request)?;
        let (place, text, role) = picture_in(request).await?;
        let pictures = pictures_of(&shared, PicturesOf::Call(id.clone())).await?;
        if !pictures.talks() {
            return Err(no_conversation());
        }
        in_time(pictures.receive(place, role, &text)).await
    };
    match given.await {
        Ok(kept) => {
            let place = format!("/api/v1/calls/{id}/images/{}", kept.number);
            (StatusCode::CREATED, [(header::LOCATION, place)], Json(view(&kept))).into_response()
        }
        Err(wrong) => wrong.into_response(),
    }
}

/// The picture of a body: JSON, or the file itself.
async fn picture_in(request: Request) -> Result<(Place, String, Role), Wrong> {
    let kind = media_type(request.headers()).to_ascii_lowercase();
    if kind == "application/json" {
        let fields = read_up_to(request, &["image", "text", "role"], LARGE_BODY).await?;
        let image = fields.text("image")?.ok_or_else(|| Wrong::bad("image", "is missing"))?;
        let role = role_of(fields.value("role"), &[Role::User, Role::System])?;
        return Ok((place_of(&image)?, text_of(fields.value("text"))?, role));
    }
    if !["image/jpeg", "image/png", "image/webp", "image/gif"].contains(&kind.as_str()) {
        let text = "send Content-Type: application/json, image/jpeg, image/png, image/webp or image/gif";
        return Err(Wrong::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_a_picture", text));
    }
    let (parts, body) = request.into_parts();
    if is_foreign(&parts.headers) {
        return Err(foreign());
    }
    let bytes = body_of(body, LIMITS.bytes).await?;
    Ok((Place::Here(bytes.to_vec()), String::new(), Role::User))
}

fn place_of(image: &str) -> Result<Place, Wrong> {
    match Place::parse(image, LIMITS.bytes) {
        Ok(Place::File(_)) => Err(NotTaken::File.into()),
        Ok(place) => Ok(place),
        Err(BadPlace::TooLong(..)) => {
            let text = format!("image: more than {} bytes", LIMITS.bytes);
            Err(Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text))
        }
        Err(why) => Err(Wrong::bad("image", &why.to_string())),
    }
}

fn text_of(value: Option<&Value>) -> Result<String, Wrong> {
    match value {
        None => Ok(String::new()),
        Some(Value::String(text)) if text.chars().count() <= TEXT_MAX => Ok(text.trim().to_owned()),
        Some(_) => Err(Wrong::bad("text", &format!("a text of at most {TEXT_MAX} characters"))),
    }
}

fn role_of(value: Option<&Value>, known: &[Role]) -> Result<Role, Wrong> {
    let named = |role: Role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let Some(value) = value else { return Ok(Role::User) };
    known.iter().copied().find(|role| value.as_str() == Some(named(*role))).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|role| named(*role)).collect();
        Wrong::bad("role", &names.join(" or "))
    })
}

/// What an agent is told before its call: `[{role, text, image}]`.
pub(super) async fn context(
    shared: &Shared,
    agent: &str,
    value: Option<&Value>,
) -> Result<Vec<Message>, Wrong> {
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= CONTEXT_MAX => items,
        Some(_) => return Err(Wrong::bad("context", &format!("a list of at most {CONTEXT_MAX} messages"))),
    };
    let pictures = pictures_of(shared, PicturesOf::Agent(agent.to_owned())).await?;
    let mut messages = Vec::with_capacity(items.len());
    for item in items {
        let Value::Object(item) = item else { return Err(Wrong::bad("context", "objects are wanted")) };
        messages.push(message(&pictures, item).await?);
    }
    Ok(messages)
}

async fn message(pictures: &Pictures, item: &Map<String, Value>) -> Result<Message, Wrong> {
    if let Some(unknown) = item.keys().find(|name| !["role", "text", "image"].contains(&name.as_str())) {
        let unknown: String = unknown.chars().filter(|letter| !letter.is_control()).take(64).collect();
        let text = format!("{unknown:?} is not known here; known: role, text, image");
        return Err(Wrong::bad("context", &text));
    }
    let role = role_of(item.get("role"), &[Role::User, Role::System, Role::Assistant])?;
    let text = text_of(item.get("text"))?;
    let place = match item.get("image") {
        None | Some(Value::Null) => None,
        Some(Value::String(image)) => Some(place_of(image)?),
        Some(_) => return Err(Wrong::bad("image", "a data URL or a URL is wanted")),
    };
    if place.is_some() && role != Role::User {
        return Err(Wrong::bad("image", "models take pictures of the user only: role user"));
    }
    if place.is_none() && text.is_empty() {
        return Err(Wrong::bad("context", "a text or an image is wanted"));
    }
    in_time(pictures.context(role, &text, place)).await
}

/// GET /api/v1/calls/{id}/images
pub(super) async fn list(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let Some(Reins { album, .. }) = &shared.reins else { return super::nowhere().await };
    let kept = album.of(&id);
    let snapshot = (shared.source)();
    let known =
        snapshot.calls.iter().any(|call| call.id == id) || snapshot.recent.iter().any(|call| call.id == id);
    if kept.is_empty() && !known {
        let text = "no live or recent call has this id";
        return Wrong::new(StatusCode::NOT_FOUND, "unknown_call", text).into_response();
    }
    let images: Vec<Value> = kept.iter().map(|kept| view(kept)).collect();
    Json(json!({ "images": images })).into_response()
}

/// GET /api/v1/calls/{id}/images/{number}
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Path((id, number)): Path<(String, String)>,
) -> Response {
    let found = shared.reins.as_ref().and_then(|reins| reins.album.one(&id, number.parse().ok()?));
    match found {
        Some(kept) => ([(header::CONTENT_TYPE, kept.kind.media_type())], kept.bytes.to_vec()).into_response(),
        None => {
            let text = "no picture has this number, or it is not kept any more";
            Wrong::new(StatusCode::NOT_FOUND, "unknown_picture", text).into_response()
        }
    }
}

fn view(kept: &Kept) -> Value {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    json!({
        "id": kept.number,
        "direction": kept.way.name(),
        "type": kept.kind.media_type(),
        "width": kept.size.width,
        "height": kept.size.height,
        "bytes": kept.bytes.len(),
        "text": kept.text,
        "time": seconds(kept.at),
        "file": kept.file.as_ref().map(|file| file.display().to_string()),
    })
}

/// POST /api/v1/calls/{id}/show
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let shown = async {
        let _room = room_for(&shared, &request)?;
        let fields = read_up_to(request, &["picture", "image", "seconds", "clear"], LARGE_BODY).await?;
        let wanted = to_show(&fields)?;
        let pictures = pictures_of(&shared, PicturesOf::Call(id.clone())).await?;
        match wanted {
            None => {
                pictures.board().clear();
                Ok(json!({ "id": id, "showing": null }))
            }
            Some((which, time)) => {
                let size = in_time(pictures.show(&which, time)).await?;
                let seconds = time.map_or(0, |time| time.as_secs());
                Ok(json!({ "id": id, "showing": size.to_string(), "seconds": seconds }))
            }
        }
    };
    match shown.await {
        Ok(body) => Json(body).into_response(),
        Err(wrong) => Wrong::into_response(wrong),
    }
}

/// What to show and how long; `None`: nothing any more.
fn to_show(fields: &Fields) -> Result<Option<(Which, Option<Duration>)>, Wrong> {
    let which = match (fields.text("picture")?, fields.text("image")?, fields.value("clear")) {
        (None, None, Some(Value::Bool(true))) => return Ok(None),
        (Some(picture), None, None) if !picture.trim().is_empty() => Which::parse(&picture),
        (None, Some(image), None) => Which::Here(place_of(&image)?),
        _ => return Err(Wrong::bad("picture", "give one of picture, image and clear: true")),
    };
    let seconds = match fields.value("seconds") {
        None => None,
        Some(value) => match value.as_u64() {
            Some(seconds) if seconds <= SECONDS_MAX => Some(seconds),
            _ => {
                return Err(Wrong::bad(
                    "seconds",
                    &format!("0 to {SECONDS_MAX}; 0 is until another is shown"),
                ));
            }
        },
    };
    Ok(Some((which, time_of(seconds))))
}

/// POST /api/v1/calls/{id}/captions
pub(super) async fn captions(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let switched = async {
        let fields = read(request, &["on"]).await?;
        let Some(on) = fields.value("on").and_then(Value::as_bool) else {
            return Err(Wrong::bad("on", "true or false is wanted"));
        };
        let pictures = pictures_of(&shared, PicturesOf::Call(id.clone())).await?;
        if !pictures.talks() {
            return Err(no_conversation());
        }
        pictures.board().set_captions(on);
        Ok(json!({ "id": id, "captions": on }))
    };
    match switched.await {
        Ok(body) => Json(body).into_response(),
        Err(wrong) => wrong.into_response(),
    }
}

fn no_conversation() -> Wrong {
    let text = "the agent of this call does not talk: kind = \"pipeline\" or \"realtime\"";
    Wrong::new(StatusCode::CONFLICT, "no_conversation", text)
}

impl From<NotTaken> for Wrong {
    fn from(why: NotTaken) -> Self {
        let (status, code) = match &why {
            NotTaken::Unusable(Unusable::TooManyBytes(..) | Unusable::TooManyPixels(..))
            | NotTaken::NotFetched(NotFetched::TooLong(_)) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            NotTaken::Unusable(Unusable::Unknown) | NotTaken::NotFetched(NotFetched::NoPicture) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_a_picture")
            }
            NotTaken::Unusable(Unusable::Damaged(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "damaged"),
            NotTaken::Unusable(Unusable::NoRoom) | NotTaken::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy")
            }
            NotTaken::NotFetched(
                NotFetched::Scheme
                | NotFetched::Address
                | NotFetched::Unreached(_)
                | NotFetched::TooSlow(_)
                | NotFetched::Status(_)
                | NotFetched::Redirects,
            ) => (StatusCode::UNPROCESSABLE_ENTITY, "not_fetched"),
            NotTaken::File => (StatusCode::BAD_REQUEST, "bad_request"),
            NotTaken::Withheld => (StatusCode::UNPROCESSABLE_ENTITY, "withheld"),
            NotTaken::Blind => (StatusCode::CONFLICT, "agent_cannot_see"),
            NotTaken::TooMany(_) => (StatusCode::CONFLICT, "too_many_images"),
            NotTaken::NoSnapshot => (StatusCode::CONFLICT, "no_snapshot"),
            NotTaken::NoScreen => (StatusCode::CONFLICT, "no_video"),
            NotTaken::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_picture"),
        };
        let text = format!("image: {why}");
        Wrong::new(status, code, text).at("image")
    }
}
