"""What a mask value means: classes, codings, stray values, class lists, overlays."""
