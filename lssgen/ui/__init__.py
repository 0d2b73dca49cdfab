"""The web page: controls, the view folded from events, rendering, and the Gradio wiring."""
