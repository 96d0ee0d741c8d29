"""Reports as text: table, JSON, Markdown. Functions return strings or lines of spans; printing them is `cli`'s business."""
