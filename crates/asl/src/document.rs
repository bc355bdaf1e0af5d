//! Generated parts inside of documents that people write.

/// A document has no place for what is generated, or one without an end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no block \"<!-- generated: {block} -->\" … \"<!-- /generated -->\" in the document"
)]
pub struct MissingBlock {
    /// The block's name.
    pub block: String,
}

/// Puts `content` between `<!-- generated: BLOCK -->` and `<!-- /generated -->`, each on a line of its
/// own; a machine's drawing belongs into the block `statemachine NAME`.
///
/// Returns the whole document; it equals the one given when the block was up to date, which is what a
/// check in CI compares.
pub fn replace_block(document: &str, block: &str, content: &str) -> Result<String, MissingBlock> {
    let begin = format!("<!-- generated: {block} -->");
    let missing = || MissingBlock {
        block: block.to_owned(),
    };
    let (before, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (old, after) = rest.split_once("<!-- /generated -->").ok_or_else(missing)?;
    if old.contains("<!-- generated: ") {
        // The end that was found is the next block's.
        return Err(missing());
    }
    let content = content.trim_end_matches('\n');
    Ok(format!(
        "{before}{begin}\n{content}\n<!-- /generated -->{after}"
    ))
}
