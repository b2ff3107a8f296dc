"""What each operator is in plain PyTorch, as doctests: they stand in the pages of `docs/operators` and tests run them.

Names that every snippet finds: torch, F (torch.nn.functional), ops (gankernels.ops), and `same(a, b)`, whether two
tensors are equal to rounding. Random numbers are seeded.
"""

EQUIVALENTS = {
    "adain": """
>>> x, scale, shift = torch.randn(2, 3, 4, 5), torch.randn(2, 3), torch.randn(2, 3)
>>> same(ops.adain(x, scale, shift), F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None])
True
""",
    "adain_from": """
>>> content, style = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 7)
>>> var, mean = torch.var_mean(style, (2, 3), correction=0, keepdim=True)
>>> same(ops.adain_from(content, style), F.instance_norm(content) * (var + 1e-5).sqrt() + mean)
True
""",
    "add_noise": """
>>> x, noise, strength = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5), torch.randn(3)
>>> same(ops.add_noise(x, noise, strength), x + strength[:, None, None] * noise)
True
""",
    "affine_grid_sample2d": """
>>> x, theta = torch.randn(2, 3, 5, 6), torch.randn(2, 2, 3)
>>> grid = F.affine_grid(theta, [2, 3, 4, 7], align_corners=False)
>>> same(ops.affine_grid_sample2d(x, theta, [4, 7]), F.grid_sample(x, grid, align_corners=False))
True
""",
    "batch_norm_act": """
>>> x, weight, bias = torch.randn(4, 3, 5, 6), torch.randn(3), torch.randn(3)
>>> y = ops.batch_norm_act(x, weight, bias, None, None, training=True, act="relu")
>>> same(y, F.relu(F.batch_norm(x, None, None, weight, bias, training=True)))
True
""",
    "bias_act": """
>>> x, bias = torch.randn(2, 3, 4, 5), torch.randn(3)
>>> y = ops.bias_act(x, bias, act="lrelu", clamp=1.0)
>>> same(y, (F.leaky_relu(x + bias[:, None, None], 0.2) * 2**0.5).clamp(-1, 1))
True
""",
    "conditional_batch_norm": """
>>> x, scale, shift = torch.randn(4, 3, 5, 6), torch.randn(4, 3), torch.randn(4, 3)
>>> y = ops.conditional_batch_norm(x, scale, shift, None, None, training=True)
>>> normal = F.batch_norm(x, None, None, training=True)
>>> same(y, normal * scale[:, :, None, None] + shift[:, :, None, None])
True
""",
    "conv2d": """
>>> x, weight, bias = torch.randn(2, 4, 7, 8), torch.randn(6, 2, 3, 3), torch.randn(6)
>>> same(ops.conv2d(x, weight, bias, 2, 1, groups=2), F.conv2d(x, weight, bias, 2, 1, groups=2))
True
""",
    "conv2d_resample": """
>>> x, w, f = torch.randn(2, 3, 5, 6), torch.randn(4, 3, 3, 3), ops.setup_filter([1, 3, 3, 1])
>>> y = ops.conv2d_resample(x, w, f, down=2, padding=1)
>>> same(y, F.conv2d(ops.upfirdn2d(x, f, padding=2), w, stride=2))
True
""",
    "conv_transpose2d": """
>>> x, weight, bias = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 4, 4), torch.randn(3)
>>> same(ops.conv_transpose2d(x, weight, bias, 2, 1), F.conv_transpose2d(x, weight, bias, 2, 1))
True
""",
    "downsample2d": """
>>> x = torch.randn(2, 3, 6, 8)
>>> same(ops.downsample2d(x, ops.setup_filter([1, 1])), F.avg_pool2d(x, 2))
True
""",
    "fade_in": """
>>> image, lower = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
>>> weight, bias = torch.randn(3, 5, 1, 1), torch.randn(3)
>>> old = F.interpolate(F.conv2d(lower, weight, bias), scale_factor=2)
>>> same(ops.fade_in(image, lower, 0.3, weight, bias), 0.7 * old + 0.3 * image)
True
""",
    "filter2d": """
>>> x, f = torch.randn(2, 3, 5, 6), ops.setup_filter([1, 2, 1])
>>> same(ops.filter2d(x, f), F.conv2d(x, f.expand(3, 1, 3, 3), padding=1, groups=3))
True
""",
    "filtered_lrelu": """
>>> x, bias, f = torch.randn(2, 3, 5, 6), torch.randn(3), ops.setup_filter([1, 3, 3, 1])
>>> y = ops.filtered_lrelu(x, f, f, bias, up=2, down=2, padding=3)
>>> wide = ops.upfirdn2d(x + bias[:, None, None], f, up=2, padding=3, gain=4)
>>> same(y, ops.upfirdn2d(F.leaky_relu(wide, 0.2) * 2**0.5, f, down=2))
True
""",
    "gradient_reversal": """
>>> x = torch.randn(3, requires_grad=True)
>>> y = ops.gradient_reversal(x, 0.5)
>>> same(y, x), torch.autograd.grad(y.sum(), x)[0].tolist()
(True, [-0.5, -0.5, -0.5])
""",
    "grid_sample2d": """
>>> x, grid = torch.randn(2, 3, 5, 6), torch.rand(2, 4, 7, 2) * 2 - 1
>>> same(ops.grid_sample2d(x, grid), F.grid_sample(x, grid, align_corners=False))
True
""",
    "instance_norm_act": """
>>> x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(3), torch.randn(3)
>>> same(ops.instance_norm_act(x, weight, bias, act="relu"), F.relu(F.instance_norm(x, weight=weight, bias=bias)))
True
""",
    "maxout": """
>>> x = torch.randn(2, 6, 4, 5)
>>> same(ops.maxout(x, 3), x.unflatten(1, (2, 3)).amax(2))
True
""",
    "minibatch_stddev": """
>>> x = torch.randn(4, 3, 5, 6)
>>> groups = x.reshape(2, 2, 3, 5, 6)  # samples 0 and 2, and samples 1 and 3
>>> number = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).repeat(2)
>>> same(ops.minibatch_stddev(x, group_size=2), torch.cat([x, number[:, None, None, None].expand(4, 1, 5, 6)], 1))
True
""",
    "modulate_act": """
>>> x, scale, bias, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3), torch.randn(3), torch.randn(4, 5)
>>> y = ops.modulate_act(x, scale, bias, noise=noise, act="lrelu")
>>> same(y, F.leaky_relu(scale[:, :, None, None] * x + noise + bias[:, None, None], 0.2) * 2**0.5)
True
""",
    "modulated_conv2d": """
>>> x, weight, styles = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
>>> each = weight[None] * styles[:, None, :, None, None]
>>> each = each * (each.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
>>> y = ops.modulated_conv2d(x, weight, styles, padding=1)
>>> same(y, torch.cat([F.conv2d(x[n : n + 1], each[n], padding=1) for n in range(2)]))
True
""",
    "modulated_conv2d_act": """
>>> x, weight, styles, bias = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(2, 3), torch.randn(4)
>>> y = ops.modulated_conv2d_act(x, weight, styles, bias, padding=1, act="lrelu")
>>> same(y, ops.bias_act(ops.modulated_conv2d(x, weight, styles, padding=1), bias, act="lrelu"))
True
""",
    "norm_per_sample": """
>>> x = torch.randn(4, 3, 5, 6)
>>> same(ops.norm_per_sample(x), torch.linalg.vector_norm(x, dim=(1, 2, 3)))
True
""",
    "pixel_norm": """
>>> x = torch.randn(2, 3, 4, 5)
>>> same(ops.pixel_norm(x), x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt())
True
""",
    "pixel_shuffle_act": """
>>> x, bias = torch.randn(2, 12, 4, 5), torch.randn(12)
>>> y = ops.pixel_shuffle_act(x, 2, bias, act="relu", gain=1)
>>> same(y, F.relu(F.pixel_shuffle(x + bias[:, None, None], 2)))
True
""",
    "self_attention2d": """
>>> q, k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 2), torch.randn(2, 6, 2, 2)
>>> weights = torch.softmax(q.flatten(2).mT @ k.flatten(2), dim=2)  # [N, pixels of q, pixels of k]
>>> same(ops.self_attention2d(q, k, v), (v.flatten(2) @ weights.mT).unflatten(2, (4, 5)))
True
""",
    "setup_filter": """
>>> taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
>>> same(ops.setup_filter([1, 3, 3, 1]), torch.outer(taps, taps) / 64)
True
""",
    "spade_norm": """
>>> x, scale, shift = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
>>> y = ops.spade_norm(x, scale, shift, training=True)
>>> same(y, F.batch_norm(x, None, None, training=True) * (1 + scale) + shift)
True
""",
    "spectral_norm": """
>>> weight, u, v = torch.randn(4, 3, 3, 3), F.normalize(torch.randn(4), dim=0), F.normalize(torch.randn(27), dim=0)
>>> (y,), (new_u,), (new_v,) = ops.spectral_norm([weight], [u], [v])
>>> u = F.normalize(weight.flatten(1) @ v, dim=0)
>>> v = F.normalize(weight.flatten(1).mT @ u, dim=0)
>>> same(y, weight / (u @ weight.flatten(1) @ v)), same(new_u, u), same(new_v, v)
(True, True, True)
""",
    "sum_squares_per_sample": """
>>> x = torch.randn(4, 3, 5, 6)
>>> same(ops.sum_squares_per_sample(x), x.square().sum((1, 2, 3)))
True
""",
    "upfirdn2d": """
>>> x, f = torch.randn(2, 3, 5, 6), torch.randn(4, 4)
>>> wide = torch.zeros(2, 3, 10, 12)
>>> wide[:, :, ::2, ::2] = x  # up by 2
>>> wide = F.pad(wide, [2, 1, 2, 1])
>>> y = F.conv2d(wide, f.flip([0, 1]).expand(3, 1, 4, 4), groups=3)  # a true convolution
>>> same(ops.upfirdn2d(x, f, up=2, down=3, padding=[2, 1, 2, 1]), y[:, :, ::3, ::3])
True
""",
    "upsample2d": """
>>> x = torch.randn(2, 3, 5, 6)
>>> same(ops.upsample2d(x, ops.setup_filter([1, 1])), F.interpolate(x, scale_factor=2))
True
""",
}
