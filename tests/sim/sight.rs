//! Half an hour of a caller who moves about and talks, seen all the time: what a model is sent stays of one size, and
//! what pictures may cost is never exceeded. In virtual time; only the canned model answers on the clock, at once.

use std::sync::Arc;
use std::time::Instant;

use eyeline::base::time::Pts;
use eyeline::media::frame::{CleanFrame, Plane, Size};
use eyeline::media::pool::FramePool;
use eyeline::talk::context::{Context, ContextSettings};
use eyeline::talk::link::{Http, LinkSettings, Models};
use eyeline::talk::message::{Endpoint, Image, ImageType, Request, Vendor};
use eyeline::talk::sight::Track;
use eyeline::talk::sight::budget::{Budget, BudgetSettings, text_tokens};
use eyeline::talk::sight::describe::{DescribeSettings, Describer};
use eyeline::talk::sight::watch::{Chosen, Watch, WatchSettings};
use serde_json::json;

use crate::world::ms;

const HALF_AN_HOUR_MS: u64 = 30 * 60 * 1_000;
/// The caller asks something every twenty seconds, for three.
const TURN_MS: u64 = 20_000;
const SPEAKS_MS: u64 = 3_000;
/// It shows something else every seven.
const SCENE_MS: u64 = 7_000;
const HISTORY_TOKENS: u64 = 2_000;

fn scene(pool: &FramePool, number: u64) -> CleanFrame {
    let size = Size::new(160, 90);
    let mut picture = pool.take_sized(size, Pts::ZERO).expect("room");
    let (shade, wide) = ((number * 70 % 200) as u8, 4 + (number % 3) as usize * 8);
    for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
        *luma = shade + if (at % size.width / wide).is_multiple_of(2) { 40 } else { 0 };
    }
    CleanFrame::drawn_here(picture)
}

fn still(id: u64) -> Arc<Image> {
    let size = Size::new(1024, 576);
    Arc::new(Image::given(
        id,
        ImageType::Jpeg,
        vec![0],
        size,
        format!("a picture of the caller, number {id}"),
    ))
}

fn describer(budget: BudgetSettings) -> Describer {
    let text = json!({
        "description": "Scene {number}: a man in front of a shelf with books, who holds something up to the camera.",
        "labels": ["man", "{number}"], "text": "", "faces": 1, "confidence": 0.9,
    });
    let options = json!({ "text": text.to_string() }).as_object().cloned().unwrap_or_default();
    let endpoint = Endpoint { options, ..Endpoint::new("eye", Vendor::Mock) };
    let models = Models::new(&Http::new(), vec![endpoint], LinkSettings::default());
    Describer::new(models, DescribeSettings { budget, ..DescribeSettings::default() }, None)
}

/// All tokens of its words, and how many pictures.
fn size_of(request: &Request) -> (u64, usize) {
    let words = request.messages.iter().map(|message| text_tokens(&message.words()));
    (words.sum(), request.image_count())
}

/// Whether the sizes of the second quarter of an hour are no other than those of the first.
fn is_level(sizes: &[(u64, usize)]) -> bool {
    let (early, late) = sizes.split_at(sizes.len() / 2);
    let most = |part: &[(u64, usize)]| part.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0);
    most(late) <= most(early) + most(early) / 20
}

async fn half_an_hour(budget: BudgetSettings) -> (Vec<(u64, usize)>, Describer) {
    let start = Instant::now();
    let pool = FramePool::new(8);
    let (mut watch, mut describer) = (Watch::new(WatchSettings::default()), describer(budget));
    let mut context =
        Context::new(ContextSettings { history_tokens: HISTORY_TOKENS, ..ContextSettings::default() });
    let (mut sizes, mut stills) = (Vec::new(), 0);
    let mut shown = (0, scene(&pool, 0));
    for at in (0..HALF_AN_HOUR_MS).step_by(200) {
        let now = start + ms(at);
        watch.set_open(describer.is_open());
        watch.handle_speaking(at % TURN_MS < SPEAKS_MS);
        if at / SCENE_MS != shown.0 {
            shown = (at / SCENE_MS, scene(&pool, at / SCENE_MS));
        }
        watch.handle_picture(now, Track::Camera, shown.1.clone());
        while let Some(Chosen::Take { look, .. }) = watch.poll(now) {
            stills += 1;
            watch.made(stills, *look);
            describer.show(still(stills));
            // A spent budget answers nothing.
            let Ok(described) = tokio::time::timeout(ms(200), describer.next()).await else { continue };
            if let (Ok(vision), false) = (&described.outcome, described.again) {
                context.observe(Some(vision.line()));
            }
        }
        if at % TURN_MS == SPEAKS_MS {
            context.user(
                "What am I holding in my hand at this very moment, and would you know where to put it?",
                &[],
            );
            sizes.push(size_of(&context.request()));
            context.reply(
                "You hold something up to the camera. I would put it back on the shelf behind you.",
                false,
            );
        }
    }
    (sizes, describer)
}

#[tokio::test]
async fn half_an_hour_of_continuous_sight_stays_of_one_size_and_within_its_budget() {
    let (sizes, describer) = half_an_hour(BudgetSettings { images: 0, ..BudgetSettings::default() }).await;
    let figures = describer.figures();
    // A new scene every seven seconds, and one picture each.
    assert!((240..=280).contains(&figures.described) && figures.failed == 0, "{figures:?}");
    assert!(sizes.len() == 90 && is_level(&sizes), "{sizes:?}");
    assert!(
        sizes.iter().all(|(tokens, images)| *tokens <= HISTORY_TOKENS + 100 && *images == 0),
        "{sizes:?}"
    );
    for budget in [
        BudgetSettings { images: 100, ..BudgetSettings::default() },
        BudgetSettings { images: 0, tokens: 20_000, ..BudgetSettings::default() },
        BudgetSettings {
            images: 0,
            usd: 0.04,
            usd_per_million_in: 2.0,
            usd_per_million_out: 8.0,
            ..BudgetSettings::default()
        },
    ] {
        let (sizes, describer) = half_an_hour(budget).await;
        let spent = describer.figures().spent;
        assert!(budget.images == 0 || spent.images == budget.images, "{spent:?}");
        assert!(budget.tokens == 0 || (17_000..=budget.tokens).contains(&spent.tokens), "{spent:?}");
        assert!(budget.usd == 0.0 || (0.03..=budget.usd).contains(&spent.usd), "{spent:?}");
        assert!(!describer.is_open() && sizes.len() == 90 && is_level(&sizes), "the talk goes on: {sizes:?}");
    }
}

/// The same where every turn brings its picture to the agent's own model.
#[test]
fn half_an_hour_of_turns_with_pictures_stays_of_one_size_and_within_its_budget() {
    let limits = BudgetSettings { images: 60, ..BudgetSettings::default() };
    let mut budget = Budget::new(limits);
    let mut context = Context::new(ContextSettings { history_tokens: 5_500, ..ContextSettings::default() });
    let (mut sizes, mut sent) = (Vec::new(), Vec::new());
    for turn in 0..90 {
        context.user("What am I holding in my hand at this very moment, and would you know where in this house it was yesterday?", &[still(turn)]);
        let mut request = context.request();
        let ticket = budget.admit(&mut request);
        sent.push(ticket.images());
        budget.settle(ticket, None);
        sizes.push((size_of(&context.request()).0, request.image_count()));
        context.reply(
            "You hold something up to the camera. I have not seen it before, so I cannot say where it was.",
            false,
        );
        assert!(budget.spent().images <= limits.images);
    }
    assert!(is_level(&sizes) && sizes.iter().all(|(_, images)| *images <= 4), "{sizes:?}");
    assert_eq!((sent[59], sent[64], budget.spent().images), (4, 0, 60), "{sent:?}");
    let longest = sizes.iter().map(|(tokens, _)| *tokens).max();
    assert!(longest.is_some_and(|tokens| tokens <= 5_500), "{longest:?}");
}
