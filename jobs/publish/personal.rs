//! Chats that get texts of their own: one template, and values for each chat. Nothing is stored twice: the job has the template
//! and the values, and each text is made when its turn comes, as it was made and checked when the job was taken.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    PublishArgs,
    args::wrong,
    template::{self, TemplateError},
};
use crate::{ArgsError, target};

/// A chat, and what the template's variables stand for there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetArgs {
    /// Named as `args.chat` is.
    #[schemars(length(min = 1, max = 256))]
    pub chat: String,
    /// Values of this chat. Each variable of the template has one here or in `args.variables`; what stands here wins.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

impl TargetArgs {
    pub fn new<'a>(chat: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = variables.into_iter();
        Self {
            chat: chat.to_owned(),
            variables: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }
}

/// Leaves the values out: they are parts of texts.
impl fmt::Debug for TargetArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetArgs")
            .field("chat", &target::shape(&self.chat))
            .field("variables", &self.variables.len())
            .finish()
    }
}

/// The text of the target at `index`. A variable without a value, and a value without a variable, are refused by name.
pub(super) fn text_of(args: &PublishArgs, index: usize) -> Result<String, ArgsError> {
    let Some(target) = args.targets.get(index) else {
        return Ok(args.text.clone());
    };
    let mut values = args.variables.clone();
    values.extend(target.variables.clone());
    template::fill(&args.text, args.format, &values).map_err(|error| match error {
        TemplateError::Missing(_)
        | TemplateError::Unknown(_)
        | TemplateError::TooLong(_)
        | TemplateError::Backtick(_) => wrong(
            format!("args.targets[{index}].variables"),
            format!("do not fit: {error}"),
        ),
        TemplateError::Variable { .. } => wrong("args.text", error.to_string()),
        TemplateError::Markup(_) => wrong(
            format!("args.targets[{index}]"),
            format!("filled in, its text cannot be sent: {error}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Job, ports::TextFormat};

    fn args(targets: Vec<TargetArgs>) -> PublishArgs {
        PublishArgs {
            targets,
            format: TextFormat::Markdown,
            variables: BTreeMap::from([("place".to_owned(), "the *pier*".to_owned())]),
            ..PublishArgs::plain("", "Dear {{name}}, **{{place}}**")
        }
    }

    #[test]
    fn each_chat_has_its_own_values_before_those_of_all() {
        let args = args(vec![
            TargetArgs::new("@pier_one", [("name", "Ada_")]),
            TargetArgs::new("@pier_two", [("name", "Bo"), ("place", "home")]),
        ]);
        args.validate().expect("every variable has a value");
        assert_eq!(args.places(), ["@pier_one", "@pier_two"]);
        let shown = |index| {
            let text = text_of(&args, index).expect("filled in");
            crate::markup::read(&text, TextFormat::Markdown)
                .expect("good markup")
                .text
        };
        assert_eq!(shown(0), "Dear Ada_, the *pier*");
        assert_eq!(shown(1), "Dear Bo, home");
    }

    #[test]
    fn what_is_missing_unknown_or_too_long_is_named_with_its_chat() {
        let refused = |targets| args(targets).validate().expect_err("refused");
        let good = TargetArgs::new("@pier_one", [("name", "Ada")]);
        let error = refused(vec![good.clone(), TargetArgs::new("@pier_two", [])]);
        assert_eq!(error.field, "args.targets[1].variables");
        assert!(error.message.contains("name"), "{error}");
        let error = refused(vec![TargetArgs::new("@pier_one", [("name", "Ada"), ("nmae", "x")])]);
        assert_eq!(error.field, "args.targets[0].variables");
        let long = "a".repeat(4096);
        let error = refused(vec![
            good.clone(),
            TargetArgs::new("@pier_two", [("name", long.as_str())]),
        ]);
        assert_eq!(error.field, "args.targets[1]");
        assert!(error.message.contains("4096"), "{error}");
        let error = refused(vec![good.clone(), good.clone()]);
        assert_eq!(error.field, "args.targets[1].chat");
        let both = PublishArgs {
            chats: vec!["@pier_three".into()],
            ..args(vec![good])
        };
        assert_eq!(both.validate().expect_err("both").field, "args.targets");
    }
}
