//! CRI `ListMetricDescriptors`.

use cri_api::v1;

use crate::convert::metrics;

/// Every metric that `ListPodSandboxMetrics` may report; always the same.
pub(crate) fn list_metric_descriptors() -> v1::ListMetricDescriptorsResponse {
    let descriptors = sandbox::DESCRIPTORS.iter().map(|metric| metrics::descriptor(metric));
    v1::ListMetricDescriptorsResponse { descriptors: descriptors.collect() }
}
