"""The modules of ``torch_utils.ops`` with the call signatures that StyleGAN2-ADA and StyleGAN3 code uses."""
