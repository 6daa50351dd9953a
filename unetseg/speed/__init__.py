"""How fast this machine is with a U-Net, and where the time goes."""
