"""Image tensor → logits: the U-Net, built from an encoder, skips and a decoder.

`unetseg.unet.model` puts the parts together; the other files hold one kind of part each.
"""
