"""Global attention against the published implementation, and what it promises about padding."""

import pytest
import torch

from fa_detectron.layers import GlobalAttentionEncoder, sine_position_code
from tests.golden import load_golden, relative_error, state_dict


def test_agrees_with_the_published_numbers():
    data = load_golden("grfa")
    x, mask = torch.from_numpy(data["x"]), torch.from_numpy(data["padding_mask"])
    assert relative_error(sine_position_code(mask, x.shape[1]), data["position"]) < 1e-4

    encoder = GlobalAttentionEncoder(
        x.shape[1], int(data["num_heads"]), int(data["dim_feedforward"]), int(data["num_layers"]), dropout=0.1
    )
    encoder.load_state_dict(state_dict(data, "state."))
    valid = ~mask.unsqueeze(1).expand_as(x)
    found = encoder.eval()(x, mask)
    assert relative_error(found[valid], data["y"][valid.numpy()]) < 1e-4


def test_position_code_by_plain_loops():
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    mask[:, :, 4:] = True  # the last column is padding
    code = sine_position_code(mask, 8)
    for row in range(3):
        for column in range(4):
            expected = []
            for value in ((row + 1) / (3 + 1e-6), (column + 1) / (4 + 1e-6)):
                for i in range(4):
                    angle = torch.tensor(value * 2 * torch.pi / 10000 ** (2 * (i // 2) / 4))
                    expected.append(angle.sin() if i % 2 == 0 else angle.cos())
            torch.testing.assert_close(code[0, :, row, column], torch.stack(expected), atol=1e-5, rtol=0)


def test_padding_does_not_change_the_valid_cells():
    torch.manual_seed(0)
    encoder = GlobalAttentionEncoder(32, num_heads=4, dim_feedforward=16, num_layers=2).eval()
    x = torch.randn(1, 32, 4, 5)
    alone = encoder(x, torch.zeros(1, 4, 5, dtype=torch.bool))
    padded = torch.full((1, 32, 6, 8), 100.0)
    padded[:, :, :4, :5] = x
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[:, :4, :5] = False
    torch.testing.assert_close(encoder(padded, mask)[:, :, :4, :5], alone, atol=1e-5, rtol=1e-4)


def test_a_gate_leaves_the_map_as_it_is_until_it_opens():
    torch.manual_seed(0)
    encoder = GlobalAttentionEncoder(32, num_heads=4, dim_feedforward=16, num_layers=2, gated=True).eval()
    x = torch.randn(2, 32, 3, 4)
    assert torch.equal(encoder(x), x)
    encoder(x).square().sum().backward()
    assert encoder.gate.grad.all()
    with torch.no_grad():
        encoder.gate.fill_(0.5)
    plain = GlobalAttentionEncoder(32, num_heads=4, dim_feedforward=16, num_layers=2).eval()
    plain.load_state_dict({name: value for name, value in encoder.state_dict().items() if name != "gate"})
    torch.testing.assert_close(encoder(x), x + 0.5 * plain(x))


def test_dropout_only_in_training():
    encoder = GlobalAttentionEncoder(16, num_heads=2, dim_feedforward=16, num_layers=1, dropout=0.5)
    x, mask = torch.randn(1, 16, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    assert not torch.equal(encoder(x, mask), encoder(x, mask))
    encoder.eval()
    assert torch.equal(encoder(x, mask), encoder(x, mask))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="30 channels cannot be divided among 4 heads"):
        GlobalAttentionEncoder(30, num_heads=4)
    encoder = GlobalAttentionEncoder(16, num_heads=2, dim_feedforward=16, num_layers=1)
    with pytest.raises(ValueError, match="padding_mask must be"):
        encoder(torch.zeros(1, 16, 4, 4), torch.zeros(1, 4, 5, dtype=torch.bool))
