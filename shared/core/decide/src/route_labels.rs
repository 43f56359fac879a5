//! Path templates: a label of few values for paths of many.

use pannier_http::target;

/// Templates in order; the first that matches labels the request.
#[derive(Clone, Debug, Default)]
pub struct RouteLabels(Vec<Template>);

#[derive(Clone, Debug)]
struct Template {
    label: Box<str>,
    segments: Vec<Segment>,
    /// `/static/*`: whatever follows.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(Box<str>),
    Any,
}

impl RouteLabels {
    /// Compiles templates like `/orders/{id}` and `/static/*`.
    ///
    /// # Errors
    /// One line naming the template: it must begin with `/` and be at most 127 bytes long.
    pub fn compile(templates: &[String]) -> Result<Self, String> {
        templates.iter().map(|t| Template::compile(t)).collect::<Result<_, _>>().map(RouteLabels)
    }

    /// The label of a path (its query is ignored); empty if no template matches.
    #[must_use]
    pub fn label(&self, path: &str) -> &str {
        let (path, _) = target::split(path);
        self.0.iter().find(|t| t.matches(path)).map_or("", |t| &t.label)
    }
}

impl Template {
    fn compile(template: &str) -> Result<Self, String> {
        let Some(rest) = template.strip_prefix('/') else {
            return Err(format!("route template {template:?} must begin with /"));
        };
        if template.len() > 127 {
            return Err(format!("route template {template:?} is longer than 127 bytes"));
        }
        let open = rest == "*" || rest.ends_with("/*");
        let closed = if open { rest.get(..rest.len().saturating_sub(2)).unwrap_or("") } else { rest };
        let segments = if open && closed.is_empty() { Vec::new() } else { closed.split('/').map(segment).collect() };
        Ok(Template { label: template.into(), segments, open })
    }

    fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut parts = rest.split('/');
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                (Segment::Text(text), Some(part)) if **text == *part => {}
                _ => return false,
            }
        }
        self.open || parts.next().is_none()
    }
}

fn segment(text: &str) -> Segment {
    if text.starts_with('{') && text.ends_with('}') { Segment::Any } else { Segment::Text(text.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_template_that_matches_labels_the_path() {
        let templates = ["/orders/{id}", "/orders/{id}/lines", "/", "/static/*", "/a/b"].map(String::from);
        let labels = RouteLabels::compile(&templates).unwrap_or_default();
        for (path, label) in [
            ("/orders/7?x=/y", "/orders/{id}"),
            ("/orders/7/lines", "/orders/{id}/lines"),
            ("/orders/", ""),
            ("/", "/"),
            ("/static/a/b.css", "/static/*"),
            ("/a/b", "/a/b"),
            ("/a/b/", ""),
            ("*", ""),
        ] {
            assert_eq!(labels.label(path), label, "{path}");
        }
        assert!(RouteLabels::compile(&["orders".into()]).is_err());
    }
}
