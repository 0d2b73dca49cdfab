"""The placed heads look at the cell of their own place, by the stock model's own rotary embedding."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxPosEmbed, apply_rotary_emb

from lssgen.training import placement, transformer

AXES = (8, 28, 28)


@pytest.mark.parametrize(("side", "pitch"), [(16, 2), (32, 4)])
def test_every_token_looks_at_its_own_cell(side, pitch):
    """512 px has 16 x 16 tokens, two to a cell's side, 1024 px 32 x 32, four: the logit is largest there."""
    ids = transformer.positions(side)
    still = placement.turned(torch.zeros(1), torch.zeros(1), pitch, AXES)
    rotary = FluxPosEmbed(theta=10000, axes_dim=AXES)(ids)
    queries = apply_rotary_emb(still.expand(len(ids), -1)[None, :, None], rotary, sequence_dim=1)[0, :, 0]
    turned = placement.turned(ids[:, 1], ids[:, 2], pitch, AXES)
    torch.testing.assert_close(queries, turned, atol=1e-4, rtol=0)
    logits = turned @ placement.cell_keys(pitch, AXES).T / 8
    own = (ids[:, 1] // pitch * 8 + ids[:, 2] // pitch).long()
    assert torch.equal(logits.argmax(1), own)
    assert (turned @ placement.elsewhere(AXES) / 8).max() < -2


def test_placing_fits_the_keys_to_what_the_blocks_see():
    """With text states that tell the cells apart, image tokens of the first block attend to their own cell most."""
    torch.manual_seed(0)
    model = transformer.build()
    text = torch.cat([torch.randn(64, 256), torch.randn(6, 256)]).expand(2, -1, -1)
    text = text + 0.1 * torch.randn_like(text)
    ids = transformer.positions(16)

    def run():
        model(
            hidden_states=torch.randn(2, 256, 64), timestep=torch.tensor([0.3, 0.9]), img_ids=ids,
            pooled_projections=torch.randn(2, 256), encoder_hidden_states=text, txt_ids=torch.zeros(70, 3),
        )  # fmt: skip

    with torch.no_grad():
        placement.place(model, run)
        attention = model.transformer_blocks[0].attn
        seen = placement._seen(attention, run)
        keys = attention.norm_added_k(attention.add_k_proj(seen).unflatten(-1, (4, 64)))
        queries = attention.norm_q(attention.to_q(torch.randn(1, 256)).unflatten(-1, (4, 64)))[0]
    for head, pitch in placement.HEADS.items():
        wanted = placement.turned(torch.zeros(1), torch.zeros(1), pitch, AXES)[0]
        torch.testing.assert_close(queries[head], wanted, atol=1e-3, rtol=1e-3)
        at = placement.turned(ids[:, 1], ids[:, 2], pitch, AXES)
        own = (ids[:, 1] // pitch * 8 + ids[:, 2] // pitch).long()
        assert ((at @ keys[0, :, head].T).argmax(1) == own).float().mean() > 0.95
