//! What pictures may cost in one call: in pictures, tokens and money.
//!
//! Pure. A request takes its cost from the budget before it is sent, estimated on the high side; pictures there is no
//! room for are replaced by their notes, the words go anyway. What the provider says it used is booked when it answers,
//! and later estimates learn from it. Prices are the operator's: they change too often to be built in. Two models of one
//! call, the agent's own and the one that describes, pay from one purse ([`Budget::beside`]).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::talk::message::{Detail, Image, Message, Part, Request, Role, Usage};

/// The limits of one call; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetSettings {
    /// Different pictures; where [`BudgetSettings::whole`] says so, each time one is sent.
    pub images: u64,
    /// Tokens of pictures, each time one is sent.
    pub tokens: u64,
    /// US dollars for those tokens, and for the answers where [`BudgetSettings::whole`] says so.
    pub usd: f64,
    /// US dollars for a million tokens that go in, that come out, and that are pictures (0: as others that go in). What
    /// is not known costs nothing.
    pub usd_per_million_in: f64,
    pub usd_per_million_out: f64,
    pub usd_per_million_image: f64,
    /// Requests are made for their pictures only (a model that describes what it sees): all of their tokens count, and
    /// without its picture a request is not made.
    pub whole: bool,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        BudgetSettings {
            images: 500,
            tokens: 0,
            usd: 0.0,
            usd_per_million_in: 0.0,
            usd_per_million_out: 0.0,
            usd_per_million_image: 0.0,
            whole: false,
        }
    }
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub images: u64,
    pub tokens: u64,
    pub usd: f64,
    /// Pictures replaced by their notes as there was nothing left.
    pub refused: u64,
}

/// What one request was reckoned to cost; settle it once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[must_use = "what was reserved stays reserved until it is settled"]
pub struct Ticket {
    images: u64,
    image_tokens: u64,
    tokens: u64,
    usd: f64,
}

impl Ticket {
    /// How many pictures the request may carry.
    pub fn images(&self) -> u64 {
        self.images
    }
}

/// What one call has spent, whoever spent it.
#[derive(Debug, Default)]
struct Purse {
    spent: Spent,
    /// Pictures that were counted; those of a call's last minutes are enough, as older ones are forgotten.
    counted: BTreeSet<u64>,
    /// A picture was left out for good as there was no room for it.
    empty: bool,
}

/// What one model of a call may spend of the call's purse.
#[derive(Debug)]
pub struct Budget {
    settings: BudgetSettings,
    purse: Arc<Mutex<Purse>>,
    /// What providers say a picture cost, over what was estimated; at least 1.
    factor: f64,
    /// Tokens the last picture was reckoned at.
    typical: u64,
}

/// Until a picture was sent: the least one is reckoned at.
const LEAST_TOKENS: u64 = 85;
const COUNTED_MAX: usize = 256;
/// Output of a request that does not limit it.
const OUTPUT_GUESS: u64 = 1000;
/// A provider that reports nonsense must not end sight for good.
const FACTOR_MAX: f64 = 8.0;

impl Budget {
    pub fn new(settings: BudgetSettings) -> Self {
        Budget { settings, purse: Arc::default(), factor: 1.0, typical: LEAST_TOKENS }
    }

    /// Another model of the same call, with its own prices: what one spends the other cannot.
    pub fn beside(&self, settings: BudgetSettings) -> Self {
        Budget { settings, purse: self.purse.clone(), factor: 1.0, typical: LEAST_TOKENS }
    }

    fn purse<R>(&self, change: impl FnOnce(&mut Purse) -> R) -> R {
        change(&mut self.purse.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn spent(&self) -> Spent {
        self.purse(|purse| purse.spent)
    }

    /// Whether there is room for one more picture like the last one.
    pub fn is_open(&self) -> bool {
        let BudgetSettings { images, tokens, usd, .. } = self.settings;
        let typical = self.reckon(self.typical);
        let (spent, empty) = self.purse(|purse| (purse.spent, purse.empty));
        !empty
            && (images == 0 || spent.images < images)
            && (tokens == 0 || spent.tokens + typical <= tokens)
            && (usd <= 0.0 || spent.usd + self.price(typical, typical, 0) <= usd)
    }

    /// Takes what `request` costs. Pictures that do not fit are replaced by their notes: new ones when there have been
    /// enough, else the oldest first and pinned ones last.
    pub fn admit(&mut self, request: &mut Request) -> Ticket {
        let had = request.image_count();
        if let Some(image) = request.messages.iter().flat_map(Message::images).last() {
            self.typical = image_tokens(image);
        }
        self.refuse_new(request);
        let mut ticket = self.ticket(request);
        while ticket.images > 0 && !self.has_room_for(&ticket) && without_oldest(request) {
            self.purse(|purse| purse.spent.refused += 1);
            ticket = self.ticket(request);
        }
        let unmade = ticket.images == 0 && self.settings.whole;
        self.purse(|purse| {
            purse.empty |= had > 0 && ticket.images == 0;
            let whole = self.settings.whole;
            request.messages.iter().flat_map(Message::images).for_each(|image| purse.count(image.id, whole));
            if !unmade {
                purse.spent.tokens += ticket.tokens;
                purse.spent.usd += ticket.usd;
            }
        });
        if unmade { Ticket::default() } else { ticket }
    }

    /// Takes what one picture costs that is sent by itself, to a session that keeps it. `false`: there is no room.
    pub fn take(&mut self, image: &Arc<Image>) -> bool {
        let parts = vec![Part::Image(image.clone())];
        let messages = vec![Message { role: Role::User, parts, calls: Vec::new(), answers: None }];
        let ticket = self.admit(&mut Request { messages, ..Request::default() });
        ticket.images > 0
    }

    /// Books the tokens of pictures a session says it has read since it was last asked, beyond what was taken for them.
    pub fn book(&mut self, image_tokens: u64) {
        let usd = self.price(image_tokens, image_tokens, 0);
        self.purse(|purse| {
            purse.spent.tokens += image_tokens;
            purse.spent.usd += usd;
        });
    }

    /// Leaves out pictures that were never sent, once there is no room for more of them.
    fn refuse_new(&mut self, request: &mut Request) {
        if self.settings.images == 0 {
            return;
        }
        let whole = self.settings.whole;
        self.purse(|purse| {
            let mut room = self.settings.images.saturating_sub(purse.spent.images);
            for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
                let Part::Image(image) = part else { continue };
                if !whole && purse.counted.contains(&image.id) {
                    continue;
                }
                if room == 0 {
                    purse.spent.refused += 1;
                    *part = in_place_of(image);
                } else {
                    room -= 1;
                }
            }
        });
    }

    /// The answer is there, or will not come (`None`: as estimated).
    pub fn settle(&mut self, ticket: Ticket, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let (tokens, usd) = if self.settings.whole {
            (usage.input_tokens + usage.output_tokens, self.cost(usage))
        } else if usage.image_tokens > 0 && ticket.image_tokens > 0 {
            let said = usage.image_tokens as f64 / ticket.image_tokens as f64 * self.factor;
            self.factor = self.factor.max(said).clamp(1.0, FACTOR_MAX);
            (usage.image_tokens, self.price(usage.image_tokens, usage.image_tokens, 0))
        } else {
            return;
        };
        self.purse(|purse| {
            purse.spent.tokens = purse.spent.tokens.saturating_sub(ticket.tokens) + tokens;
            purse.spent.usd = (purse.spent.usd - ticket.usd).max(0.0) + usd;
        });
    }

    /// US dollars for what an answer used up, pictures and words; 0 where prices are not known.
    pub fn cost(&self, usage: Usage) -> f64 {
        self.price(usage.image_tokens.min(usage.input_tokens), usage.input_tokens, usage.output_tokens)
    }

    fn reckon(&self, tokens: u64) -> u64 {
        (tokens as f64 * self.factor).ceil() as u64
    }

    /// `image`: so many of the `input` are pictures.
    fn price(&self, image: u64, input: u64, output: u64) -> f64 {
        let BudgetSettings { usd_per_million_in, usd_per_million_out, usd_per_million_image, .. } =
            self.settings;
        let of_image = if usd_per_million_image > 0.0 { usd_per_million_image } else { usd_per_million_in };
        let words = input.saturating_sub(image) as f64 * usd_per_million_in;
        (image as f64 * of_image + words + output as f64 * usd_per_million_out) / 1e6
    }

    fn ticket(&self, request: &Request) -> Ticket {
        let images: Vec<_> = request.messages.iter().flat_map(|message| message.images()).collect();
        let image_tokens = self.reckon(images.iter().map(|image| image_tokens(image)).sum());
        let (mut tokens, mut output) = (image_tokens, 0);
        if self.settings.whole {
            let words = request.messages.iter().map(|message| text_tokens(&message.words())).sum::<u64>();
            tokens += words + text_tokens(&request.instructions);
            output = request.max_tokens.map_or(OUTPUT_GUESS, u64::from);
        }
        let usd = self.price(image_tokens, tokens, output);
        Ticket { images: images.len() as u64, image_tokens, tokens: tokens + output, usd }
    }

    fn has_room_for(&self, ticket: &Ticket) -> bool {
        let BudgetSettings { tokens, usd, .. } = self.settings;
        let spent = self.spent();
        (tokens == 0 || spent.tokens + ticket.tokens <= tokens)
            && (usd <= 0.0 || spent.usd + ticket.usd <= usd)
    }
}

impl Purse {
    /// A picture is sent; one that was sent before is no new one, unless every one counts.
    fn count(&mut self, id: u64, every: bool) {
        if self.counted.insert(id) || every {
            self.spent.images += 1;
        }
        while self.counted.len() > COUNTED_MAX {
            self.counted.pop_first();
        }
    }
}

/// Puts the notes of all pictures in their places: for a model that takes none. How many there were.
pub fn without_pictures(request: &mut Request) -> usize {
    let mut were = 0;
    for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
        match part {
            Part::Image(image) => *part = in_place_of(image),
            Part::Url(_) => *part = Part::Text("[a picture]".to_owned()),
            Part::Text(_) => continue,
        }
        were += 1;
    }
    were
}

/// What stands in a request where a picture was.
fn in_place_of(image: &Image) -> Part {
    Part::Text(format!("[{}]", image.note))
}

/// `false`: it had no picture.
fn without_oldest(request: &mut Request) -> bool {
    let mut parts = request.messages.iter_mut().flat_map(|message| &mut message.parts);
    let is = |part: &Part, pinned: bool| matches!(part, Part::Image(image) if image.pinned == pinned);
    let oldest = match parts.find(|part| is(part, false)) {
        Some(part) => Some(part),
        None => {
            request.messages.iter_mut().flat_map(|message| &mut message.parts).find(|part| is(part, true))
        }
    };
    let Some(part) = oldest else { return false };
    if let Part::Image(image) = part {
        *part = in_place_of(image);
    }
    true
}

/// The tokens a picture is reckoned at: the dearest of what is charged in practice for its size. Low detail is 85
/// everywhere it is known; else 85 and 170 a tile of 512 pixels (OpenAI), or a token for 750 pixels (Anthropic); 258 a
/// tile of 768 (Gemini).
pub fn image_tokens(image: &Image) -> u64 {
    let (width, height) = (image.size.width as u64, image.size.height as u64);
    let tiles = |side: u64| width.div_ceil(side).max(1) * height.div_ceil(side).max(1);
    match image.detail {
        Detail::Low => 85,
        Detail::Auto | Detail::High | Detail::Omit => {
            (85 + 170 * tiles(512)).max(258 * tiles(768)).max(width * height / 750)
        }
    }
}

/// The tokens words are reckoned at: four letters of ASCII each, any other letter one.
pub fn text_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let others = text.chars().filter(|letter| !letter.is_ascii()).count() as u64;
    ascii.div_ceil(4) + others
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::still::ImageType;
    use crate::media::frame::Size;
    use crate::talk::message::Role;

    fn image(id: u64) -> Image {
        Image::given(id, ImageType::Jpeg, vec![0], Size::new(1024, 576), format!("picture {id}"))
    }

    fn request(ids: &[u64]) -> Request {
        let mut message = Message::text(Role::User, "what is this?");
        message.parts.extend(ids.iter().map(|id| Part::Image(Arc::new(image(*id)))));
        Request { messages: vec![message], ..Request::default() }
    }

    fn sent(request: &Request) -> Vec<u64> {
        request.messages.iter().flat_map(Message::images).map(|image| image.id).collect()
    }

    fn budget(settings: BudgetSettings) -> Budget {
        Budget::new(BudgetSettings { usd_per_million_in: 10.0, ..settings })
    }

    #[test]
    fn a_picture_sent_again_is_no_new_one_and_after_the_last_only_words_go() {
        let mut budget = budget(BudgetSettings { images: 2, ..BudgetSettings::default() });
        for ids in [&[1][..], &[1, 2], &[1, 2]] {
            let mut asked = request(ids);
            let _ = budget.admit(&mut asked);
            assert_eq!(sent(&asked), ids);
        }
        assert!(!budget.is_open());
        let mut asked = request(&[1, 2, 3]);
        let _ = budget.admit(&mut asked);
        assert_eq!(sent(&asked), [1, 2]);
        assert!(asked.messages[0].words().contains("[picture 3]"));
        assert_eq!((budget.spent().images, budget.spent().refused), (2, 1));
    }

    #[test]
    fn tokens_and_money_are_never_exceeded_and_the_oldest_picture_goes_first() {
        let one = image_tokens(&image(1));
        for settings in [
            BudgetSettings { images: 0, tokens: 5 * one, ..BudgetSettings::default() },
            BudgetSettings { images: 0, usd: 5.0 * one as f64 * 10.0 / 1e6, ..BudgetSettings::default() },
        ] {
            let mut budget = budget(settings);
            let mut pictures = Vec::new();
            for turn in 0..5 {
                let mut asked = request(&[turn, turn + 1]);
                let ticket = budget.admit(&mut asked);
                pictures.push(sent(&asked));
                budget.settle(ticket, None);
            }
            assert_eq!(pictures, [vec![0, 1], vec![1, 2], vec![3], vec![], vec![]]);
            assert_eq!(budget.spent().tokens, 5 * one);
        }
    }

    #[test]
    fn what_the_provider_says_is_booked_and_learnt_from() {
        let mut budget = budget(BudgetSettings { images: 0, ..BudgetSettings::default() });
        let one = image_tokens(&image(1));
        let ticket = budget.admit(&mut request(&[1]));
        budget.settle(ticket, Some(Usage { image_tokens: 2 * one, ..Usage::default() }));
        assert_eq!(budget.spent().tokens, 2 * one);
        let ticket = budget.admit(&mut request(&[2]));
        assert_eq!(budget.spent().tokens, 4 * one);
        budget.settle(ticket, Some(Usage { image_tokens: one, ..Usage::default() }));
        assert_eq!(budget.spent().tokens, 3 * one);
    }

    #[test]
    fn where_requests_are_made_for_pictures_everything_counts() {
        let settings = BudgetSettings { images: 0, tokens: 10_000, whole: true, ..BudgetSettings::default() };
        let mut budget = budget(settings);
        let ticket = budget.admit(&mut request(&[1]));
        assert_eq!(ticket.images(), 1);
        assert!(budget.spent().tokens > OUTPUT_GUESS);
        budget.settle(ticket, Some(Usage { input_tokens: 900, output_tokens: 100, ..Usage::default() }));
        assert_eq!(budget.spent().tokens, 1_000);
        let none = budget.admit(&mut Request::default());
        assert_eq!((none.images(), budget.spent().tokens), (0, 1_000));
    }

    #[test]
    fn two_models_of_a_call_pay_from_one_purse_each_at_its_own_price() {
        let limits = BudgetSettings { images: 3, usd: 1.0, ..BudgetSettings::default() };
        let mut own = budget(limits);
        let mut describer = own.beside(BudgetSettings {
            whole: true,
            usd_per_million_in: 1.0,
            usd_per_million_out: 2.0,
            usd_per_million_image: 4.0,
            ..limits
        });
        let ticket = describer.admit(&mut request(&[1]));
        let usage = Usage { input_tokens: 1_000, image_tokens: 600, output_tokens: 100, cached_tokens: 0 };
        describer.settle(ticket, Some(usage));
        let cost = (600.0 * 4.0 + 400.0 * 1.0 + 100.0 * 2.0) / 1e6;
        assert!((describer.cost(usage) - cost).abs() < 1e-12 && (own.spent().usd - cost).abs() < 1e-12);
        assert!(own.take(&Arc::new(image(2))) && own.take(&Arc::new(image(3))));
        assert!(!describer.is_open() && !own.is_open());
        assert!(!own.take(&Arc::new(image(4))));
        assert_eq!(describer.admit(&mut request(&[5])).images(), 0);
        assert_eq!((own.spent().images, own.spent().refused), (3, 2));
    }

    #[test]
    fn a_model_without_prices_costs_nothing_and_a_purse_too_small_for_a_question_is_empty() {
        let limits = BudgetSettings { tokens: 1_200, whole: true, ..BudgetSettings::default() };
        let mut budget = Budget::new(limits);
        assert!(budget.is_open(), "a picture alone would fit");
        assert_eq!(budget.admit(&mut request(&[1])).images(), 0);
        assert!(!budget.is_open(), "but no question about it does");
        let mut free = Budget::new(BudgetSettings { usd: 0.01, ..BudgetSettings::default() });
        let _ = free.admit(&mut request(&[1]));
        assert!(free.is_open() && free.spent().usd == 0.0);
    }

    #[test]
    fn who_cannot_see_gets_the_notes() {
        let mut asked = request(&[1, 2]);
        assert_eq!((without_pictures(&mut asked), asked.image_count()), (2, 0));
        assert!(asked.messages[0].words().ends_with("[picture 1]\n[picture 2]"));
    }

    #[test]
    fn words_of_other_scripts_are_not_reckoned_cheaper_than_they_are() {
        assert_eq!(text_tokens("four letters"), 3);
        assert_eq!(text_tokens("日本語"), 3);
        assert_eq!(text_tokens(""), 0);
    }
}
