//! What schemas do not know of manifests: that names and labels point to something, and the rules of ours that every pod
//! is probed, bounded and without rights.

use serde_json::{Map, Value};

/// What one overlay renders.
pub(super) struct Manifests {
    objects: Vec<Value>,
}

/// A Deployment or a StatefulSet.
#[derive(Clone, Copy)]
pub(super) struct Workload<'a> {
    object: &'a Value,
}

impl Manifests {
    /// Of the documents that were rendered.
    pub(super) fn new(objects: Vec<Value>) -> Self {
        Self { objects }
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Objects of a kind.
    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Everything that has pods.
    pub(super) fn workloads(&self) -> impl Iterator<Item = Workload<'_>> {
        let all = ["Deployment", "StatefulSet"].into_iter().flat_map(|kind| self.of_kind(kind));
        all.map(|object| Workload { object })
    }

    /// What is wrong, for people.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for workload in self.workloads() {
            findings.extend(self.workload(workload));
        }
        for service in self.of_kind("Service") {
            findings.extend(self.service(service));
        }
        for (kind, pointer) in
            [("PodDisruptionBudget", "/spec/selector"), ("NetworkPolicy", "/spec/podSelector")]
        {
            for object in self.of_kind(kind) {
                if !self.workloads().any(|workload| workload.matches(object.pointer(pointer))) {
                    findings.push(format!("{}: selects no pod", title(object)));
                }
            }
        }
        for ingress in self.of_kind("Ingress") {
            for path in every(ingress, "/spec/rules", "/http/paths") {
                let service =
                    path.pointer("/backend/service/name").and_then(Value::as_str).unwrap_or_default();
                if !self.has("Service", service) {
                    findings.push(format!("{}: there is no Service {service}", title(ingress)));
                }
            }
        }
        findings.extend(self.images());
        findings
    }

    fn has(&self, kind: &str, name: &str) -> bool {
        self.of_kind(kind).any(|object| object["metadata"]["name"] == name)
    }

    fn workload(&self, workload: Workload<'_>) -> Vec<String> {
        let mut findings = workload.rules();
        if !workload.matches(workload.object.pointer("/spec/selector")) {
            findings.push("its selector does not match its pods".into());
        }
        for (kind, name) in workload.references() {
            if !self.has(kind, name) {
                findings.push(format!("there is no {kind} {name}"));
            }
        }
        let namesakes = |budget: &&Value| workload.matches(budget.pointer("/spec/selector"));
        if self.of_kind("PodDisruptionBudget").filter(namesakes).count() > 1 {
            findings.push("more than one PodDisruptionBudget, so no pod can be evicted".into());
        }
        findings.into_iter().map(|finding| format!("{}: {finding}", title(workload.object))).collect()
    }

    fn service(&self, service: &Value) -> Vec<String> {
        let labels = service["spec"]["selector"].as_object();
        let selected: Vec<_> = self
            .workloads()
            .filter(|workload| labels.is_some_and(|labels| workload.has_labels(labels)))
            .collect();
        let mut findings = Vec::new();
        if selected.is_empty() {
            findings.push(format!("{}: selects no pod", title(service)));
        }
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let target = &port["targetPort"];
            if !target.is_null() && selected.iter().any(|workload| !workload.has_port(target)) {
                findings.push(format!("{}: a pod has no port {target}", title(service)));
            }
        }
        findings
    }

    /// All processes of Skald are of one version.
    fn images(&self) -> Option<String> {
        let containers = self.workloads().flat_map(Workload::containers);
        let mut images: Vec<_> = containers
            .filter(|container| container["name"] == "skald")
            .map(|container| &container["image"])
            .collect();
        images.dedup();
        (images.len() > 1).then(|| format!("several images of Skald: {images:?}"))
    }
}

impl<'a> Workload<'a> {
    /// Kind and name.
    pub(super) fn name(self) -> String {
        title(self.object)
    }

    /// The containers of its pods.
    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        self.pod()["containers"].as_array().into_iter().flatten()
    }

    fn pod(self) -> &'a Value {
        &self.object["spec"]["template"]["spec"]
    }

    fn has_labels(self, wanted: &Map<String, Value>) -> bool {
        let labels = &self.object["spec"]["template"]["metadata"]["labels"];
        wanted.iter().all(|(name, value)| labels[name] == *value)
    }

    /// Whether a selector with labels and `In` expressions selects its pods.
    fn matches(self, selector: Option<&Value>) -> bool {
        let Some(selector) = selector else { return false };
        let labels = selector["matchLabels"].as_object();
        let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        labels.is_none_or(|labels| self.has_labels(labels))
            && expressions.all(|expression| {
                let name = expression["key"].as_str().unwrap_or_default();
                let value = &self.object["spec"]["template"]["metadata"]["labels"][name];
                expression["values"].as_array().is_some_and(|values| values.contains(value))
            })
    }

    fn has_port(self, port: &Value) -> bool {
        let mut ports =
            self.containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        ports.any(|candidate| candidate["name"] == *port || candidate["containerPort"] == *port)
    }

    /// Kinds and names of the objects that must be there.
    fn references(self) -> Vec<(&'static str, &'a str)> {
        let pod = self.pod();
        let mut found = vec![("ServiceAccount", &pod["serviceAccountName"])];
        if self.object["kind"] == "StatefulSet" {
            found.push(("Service", &self.object["spec"]["serviceName"]));
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            found.push(("ConfigMap", &volume["configMap"]["name"]));
            for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
                found.push(("ConfigMap", &source["configMap"]["name"]));
            }
        }
        for source in
            self.containers().flat_map(|container| container["envFrom"].as_array().into_iter().flatten())
        {
            if source["secretRef"]["optional"] != true {
                found.push(("Secret", &source["secretRef"]["name"]));
            }
        }
        found.into_iter().filter_map(|(kind, name)| Some((kind, name.as_str()?))).collect()
    }

    /// The rules of ours.
    fn rules(self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.pod()["securityContext"]["runAsNonRoot"] != true {
            findings.push("may run as root".to_owned());
        }
        let volumes: Vec<&Value> = every(self.object, "/spec/template/spec/volumes", "")
            .into_iter()
            .map(|volume| &volume["name"])
            .chain(
                every(self.object, "/spec/volumeClaimTemplates", "")
                    .into_iter()
                    .map(|claim| &claim["metadata"]["name"]),
            )
            .collect();
        for container in self.containers() {
            let mut demand = |pointer: &str, what: &str| {
                if container.pointer(pointer).is_none() {
                    findings.push(format!("container {}: {what}", container["name"]));
                }
            };
            demand("/readinessProbe", "no readiness probe");
            demand("/livenessProbe", "no liveness probe");
            demand("/resources/requests/cpu", "no request for CPU");
            demand("/resources/requests/memory", "no request for memory");
            demand("/resources/limits/memory", "no limit of memory");
            demand("/securityContext/capabilities/drop", "keeps capabilities");
            for mount in every(container, "/volumeMounts", "") {
                if !volumes.contains(&&mount["name"]) {
                    findings.push(format!(
                        "container {}: there is no volume {}",
                        container["name"], mount["name"]
                    ));
                }
            }
        }
        findings
    }
}

/// The elements of a list, or of the lists at `inner` of its elements.
fn every<'a>(object: &'a Value, outer: &str, inner: &str) -> Vec<&'a Value> {
    let outer = object.pointer(outer).and_then(Value::as_array).into_iter().flatten();
    match inner {
        "" => outer.collect(),
        inner => outer.filter_map(|element| element.pointer(inner)?.as_array()).flatten().collect(),
    }
}

fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> Vec<Value> {
        let container = json!({
            "name": "skald",
            "image": "skald:1",
            "ports": [{"name": "http", "containerPort": 3100}],
            "readinessProbe": {},
            "livenessProbe": {},
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {"capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "data"}, {"name": "config"}],
        });
        let pod = json!({
            "serviceAccountName": "s",
            "securityContext": {"runAsNonRoot": true},
            "containers": [container],
            "volumes": [{"name": "config", "projected": {"sources": [{"configMap": {"name": "c"}}]}}],
        });
        vec![
            json!({"kind": "ServiceAccount", "metadata": {"name": "s"}}),
            json!({"kind": "ConfigMap", "metadata": {"name": "c"}}),
            json!({"kind": "Service", "metadata": {"name": "i"}, "spec": {"selector": {"app": "i"}, "ports": [{"targetPort": "http"}]}}),
            json!({"kind": "StatefulSet", "metadata": {"name": "i"}, "spec": {
                "serviceName": "i",
                "selector": {"matchLabels": {"app": "i"}},
                "template": {"metadata": {"labels": {"app": "i"}}, "spec": pod},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            }}),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": {"podSelector": {
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["i", "j"]}]}}}),
            json!({"kind": "PodDisruptionBudget", "metadata": {"name": "p"}, "spec": {"selector": {"matchLabels": {"app": "i"}}}}),
        ]
    }

    /// The findings after `value` was put to `pointer` of the object at `index`.
    #[track_caller]
    fn findings(index: usize, pointer: &str, value: Value) -> Vec<String> {
        let mut objects = sound();
        *objects[index].pointer_mut(pointer).unwrap() = value;
        Manifests::new(objects).findings()
    }

    #[test]
    fn sound_manifests_have_no_findings() {
        assert_eq!(Manifests::new(sound()).findings(), Vec::<String>::new());
    }

    #[test]
    fn names_that_point_nowhere_are_found() {
        assert_eq!(
            findings(0, "/metadata/name", json!("t")),
            ["StatefulSet i: there is no ServiceAccount s"]
        );
        assert_eq!(findings(1, "/metadata/name", json!("d")), ["StatefulSet i: there is no ConfigMap c"]);
        assert_eq!(findings(3, "/spec/serviceName", json!("x")), ["StatefulSet i: there is no Service x"]);
        let volumes = "/spec/template/spec/volumes";
        assert_eq!(
            findings(3, volumes, json!([])),
            [r#"StatefulSet i: container "skald": there is no volume "config""#]
        );
    }

    #[test]
    fn labels_that_select_nothing_are_found() {
        assert_eq!(findings(2, "/spec/selector/app", json!("x")), ["Service i: selects no pod"]);
        assert_eq!(
            findings(2, "/spec/ports/0/targetPort", json!("x")),
            [r#"Service i: a pod has no port "x""#]
        );
        assert_eq!(
            findings(3, "/spec/selector/matchLabels/app", json!("x")),
            ["StatefulSet i: its selector does not match its pods"]
        );
        let values = "/spec/podSelector/matchExpressions/0/values";
        assert_eq!(findings(4, values, json!(["x"])), ["NetworkPolicy n: selects no pod"]);
        assert_eq!(
            findings(5, "/spec/selector/matchLabels/app", json!("x")),
            ["PodDisruptionBudget p: selects no pod"]
        );
    }

    #[test]
    fn pods_must_be_probed_bounded_and_without_rights() {
        let container = "/spec/template/spec/containers/0";
        assert_eq!(
            findings(3, &format!("{container}/resources"), json!({})).len(),
            3,
            "a request for CPU, one for memory, a limit"
        );
        assert_eq!(
            findings(3, "/spec/template/spec/securityContext", json!({})),
            ["StatefulSet i: may run as root"]
        );
    }
}
