"""The look of the page: a Gradio theme on system fonts (nothing is fetched from the web) and a small style sheet."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Teal on stone, little ornament."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f7f6f3",
        body_background_fill_dark="#141312",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1d1b1a",
        block_border_color="#e4e1db",
        block_border_color_dark="#33302d",
        block_label_text_color="#57534e",
        block_label_text_color_dark="#b8b2aa",
        block_title_text_weight="600",
        block_info_text_color="#6b6661",
        block_info_text_color_dark="#a39d95",
        body_text_color="#1c1917",
        body_text_color_dark="#efece7",
        body_text_color_subdued="#6b6661",
        body_text_color_subdued_dark="#a39d95",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#0d9488",
        button_primary_text_color="#ffffff",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#0f766e",
        checkbox_border_color_selected="#0f766e",
        input_background_fill="#ffffff",
        input_background_fill_dark="#262322",
        input_border_color="#d6d2cb",
        input_border_color_dark="#3d3936",
        input_border_width="1px",
        block_title_text_color="#1c1917",
        block_title_text_color_dark="#efece7",
        button_cancel_background_fill="#fbe4e6",
        button_cancel_background_fill_hover="#f7ccd1",
        button_cancel_text_color="#9f1239",
        button_cancel_background_fill_dark="#4a1b25",
        button_cancel_background_fill_hover_dark="#5f2230",
        button_cancel_text_color_dark="#fecdd3",
        shadow_drop="none",
        shadow_drop_lg="none",
        block_shadow="none",
    )
