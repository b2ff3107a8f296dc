import pytest
import torch
from norm_support import NormTests, images, spread
from op_tests import Calls, Sample

import gankernels
from gankernels.ops import adain, adain_from


class TestAdain(NormTests):
    name = "adain"
    overloads = ("instance_norm_act", "batch_norm_act_backward", "batch_norm_act_double_backward")
    parameters = ("scale", "shift")

    def sample(self, shape, last=False, **kwargs):
        scale, shift = spread(*shape[:2]), spread(*shape[:2]).flip(1)
        return Sample({"x": images(*shape, last=last), "scale": scale, "shift": shift}, kwargs)

    def samples(self):
        yield self.sample((3, 3, 4, 5))
        yield self.sample((2, 3, 4, 5), last=True, eps=0.1)
        yield self.sample((2, 2, 3, 1))
        yield self.sample((0, 3, 4, 4))
        yield self.sample((2, 3, 4, 0))
        yield self.sample((1, 2, 19, 17))
        yield self.sample((2, 3, 5))

    def large(self):
        yield self.sample((2, 3, 40, 41))
        yield self.sample((3, 260, 12, 7), last=True)
        yield self.sample((3, 300, 5, 7), last=True)
        yield self.sample((2, 8, 64, 33), last=True)

    def bad(self):
        x, s = torch.randn(2, 3, 4, 4), torch.ones(2, 3)
        good = {"x": x, "scale": s, "shift": s}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": 1.0}, "x is float"
        yield good | {"x": torch.ones(2, 3)}, r"x has shape \[2, 3\], expected \[N, C, H, W\]"
        for name in ("scale", "shift"):
            yield good | {name: torch.ones(3)}, rf"{name} has shape \[3\], expected \[2, 3\] \(x.shape\[:2\]\)"
            yield good | {name: s.double()}, f"{name} has dtype torch.float64, expected torch.float32"
            yield good | {name: s.to("meta")}, f"{name} is on meta"
            yield good | {name: None}, f"{name} is NoneType"
        yield good | {"x": x[..., :1, :1]}, "expected more than 1 value per channel of a sample"
        yield good | {"eps": 0.0}, "eps is 0.0"
        yield good | {"eps": "small"}, "eps is 'small'"


class TestAdainFrom(NormTests):
    name = "adain_from"
    overloads = (
        "instance_norm_act",
        "instance_statistics",
        "batch_norm_act_backward",
        "batch_norm_act_double_backward",
    )
    layout_of = ("content", "style")
    parameters = ()
    parameters_follow_x = True

    def sample(self, shape, style, last=False, **kwargs):
        return Sample({"content": images(*shape, last=last), "style": images(*style, last=last) * 2 + 1}, kwargs)

    def samples(self):
        yield self.sample((3, 3, 4, 5), (3, 3, 3, 2))
        yield self.sample((2, 3, 4, 5), (2, 3, 3, 3), last=True, eps=0.1)
        yield self.sample((0, 3, 4, 4), (0, 3, 2, 2))
        yield self.sample((2, 3, 0, 4), (2, 3, 2, 2))
        yield self.sample((2, 3, 5), (2, 3, 7))
        yield self.sample((1, 2, 19, 17), (1, 2, 3, 4))

    def large(self):
        yield self.sample((2, 3, 40, 41), (2, 3, 64, 32))
        yield self.sample((2, 40, 9, 8), (2, 40, 16, 16), last=True)

    def check_pruned(self, calls: Calls, wanted: str):
        seen = [name.split(".")[0].split("::")[1] for name, _ in calls.seen if name.startswith("gankernels")]
        (backward,) = (args["wanted"] for name, args in calls.seen if "batch_norm_act_backward" in name)
        content = wanted == "content"
        assert list(backward) == [content, not content, not content]
        assert ("instance_norm_act" in seen) == (not content)  # the derivative of the statistics

    def bad(self):
        x = torch.randn(2, 3, 4, 4)
        good = {"content": x, "style": x}
        yield good | {"content": x.int()}, "content has dtype torch.int32"
        yield good | {"style": 1.0}, "style is float"
        yield good | {"style": x.double()}, "style has dtype torch.float64, expected torch.float32 as content"
        yield good | {"style": x.to("meta")}, "style is on meta"
        yield good | {"style": x[0]}, r"style has shape \[3, 4, 4\], expected \[2, 3\] as content"
        yield good | {"style": x[:1]}, r"style has shape \[1, 3, 4, 4\], expected \[2, 3\] as content"
        yield good | {"style": x[..., :0]}, r"style has shape \[2, 3, 4, 0\]"
        yield good | {"style": x[..., :1, :1]}, "style has shape .*, expected more than 1 value per channel of a sample"
        yield good | {"content": x[..., :1, :1]}, "content has shape .*, expected more than 1 value"
        yield good | {"content": x[:, :, 0, 0]}, r"content has shape \[2, 3\], expected \[N, C, H, W\]"
        yield good | {"eps": 0.0}, "eps is 0.0"


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_the_result_has_the_styles_statistics(dtype, last):
    content, style = (images(2, 5, 8, 9, last=last).to(dtype), images(2, 5, 7, 6, last=last).to(dtype) * 3 + 4)
    y = adain_from(content, style)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last) == last
    eps = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.double().mean((2, 3)), style.double().mean((2, 3)), rtol=eps, atol=eps)
    deviation = style.double().flatten(2).std(2, correction=0)
    torch.testing.assert_close(y.double().flatten(2).std(2, correction=0), deviation, rtol=eps, atol=eps)


def test_it_is_the_plain_formula():
    x, scale, shift = torch.randn(2, 3, 5, 4), torch.randn(2, 3), torch.randn(2, 3)
    norm = torch.nn.functional.instance_norm(x)
    torch.testing.assert_close(adain(x, scale, shift), norm * scale[..., None, None] + shift[..., None, None])
    with gankernels.backend("reference"):
        torch.testing.assert_close(adain(x, scale, shift), norm * scale[..., None, None] + shift[..., None, None])
