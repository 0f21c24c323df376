//! Builds what looks at a call's pictures: the gate that must clear them, and observers.

use super::{Running, Supplies};
use crate::base::queue::{self, Latest, Receiver, Sender};
use crate::engine::Catalogue;
use crate::engine::observe::Observing;
use crate::engine::plan::{Gating, VideoIn as VideoInPlan};
use crate::media::filter::{Gate, VideoFilter};
use crate::media::frame::CleanFrame;
use crate::vision::censor::Censor;
use crate::vision::observer::{Boxes, Observer};
use crate::vision::slate::TextSlate;

impl Running {
    /// A gate that cannot be built is closed: nothing but the slate passes.
    pub(super) fn gate(&self, supplies: &Supplies) -> Gate {
        let VideoInPlan::Gated { gate, .. } = &self.plan.video_in else { return Gate::open() };
        let name = Some(self.plan.label.name.as_str());
        match build(&*supplies.settings.catalogue, gate, name) {
            Ok(gate) => gate,
            Err(why) => {
                tracing::error!(call = %self.call, "the censor cannot work and no picture will pass: {why}");
                self.gauges.fault(format!("censor: {why}"));
                Gate::closed(Box::new(TextSlate::new("picture withheld", name)))
            }
        }
    }

    pub(super) fn observer(
        &mut self,
        supplies: &Supplies,
        name: &str,
    ) -> Option<(Sender<CleanFrame, Latest>, Receiver<Boxes, Latest>)> {
        let (detector, settings) = match supplies.settings.catalogue.observer(name) {
            Ok(found) => found,
            Err(why) => {
                // Said at the start; a call without these boxes is not at fault.
                tracing::debug!("no boxes of detector {name}: {why}");
                return None;
            }
        };
        let (pictures, taken) = queue::queue(Latest);
        let (seen, boxes) = queue::queue(Latest);
        let told = self.talk.as_ref().and_then(|talk| talk.seen.clone());
        let observer = Observer::new(settings);
        let observing = Observing { detector, observer, pictures: taken, seen, told };
        self.scope.thread("observer", move || observing.run());
        Some((pictures, boxes))
    }
}

/// A gate that hides what is to be hidden. `name`: of the appliance, on its slate.
///
/// # Errors
/// Says why the censor cannot work.
pub(in crate::engine) fn build(
    catalogue: &dyn Catalogue,
    gating: &Gating,
    name: Option<&str>,
) -> Result<Gate, String> {
    let filters: Vec<Box<dyn VideoFilter>> = vec![Box::new(censor(catalogue, gating)?)];
    Ok(Gate::filtering(filters, Box::new(TextSlate::new("picture withheld", name))))
}

fn censor(catalogue: &dyn Catalogue, gating: &Gating) -> Result<Censor, String> {
    let settings = gating.censor.clone();
    let mut names = gating.detectors.iter();
    let Some(first) = names.next() else {
        if settings.targets.is_empty() {
            return Ok(Censor::without_detector(settings));
        }
        return Err(format!("no detector finds {}", settings.targets.join(", ")));
    };
    let (detector, schedule) = catalogue.gate(first)?;
    let mut censor = Censor::new(settings, detector, schedule);
    for name in names {
        let (detector, schedule) = catalogue.gate(name)?;
        censor = censor.and(detector, schedule);
    }
    Ok(censor)
}
