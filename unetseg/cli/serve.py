"""unetseg serve."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import say
from unetseg.config import DeviceConfig, ServeConfig, TilingConfig


def serve(
    run: Path,
    /,
    *,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
    tiling: Annotated[TilingConfig, Parameter(name="*")] = TilingConfig(),
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig(),
) -> None:
    """Answer requests over HTTP with the masks of a trained U-Net.

    POST /predict takes image files, /v2 speaks the Open Inference Protocol, /label-studio pre-draws
    labels in Label Studio, /metrics has figures for Prometheus, /openapi.json describes it all.

    Other machines are answered only with --host, and a token. SIGTERM lets what is under way end.
    docs/serving.md shows requests, limits and recipes.

    Examples:
    unetseg serve checkpoints/cells
    curl -F file=@a.png localhost:8000/predict -o mask.png
    unetseg serve checkpoints/cells --host 0.0.0.0 --token "$(cat token.txt)"
    unetseg serve checkpoints/cells --label-studio-files photos/ --label-studio-pairs corrected/

    Parameters
    ----------
    run
        Run folder of `unetseg train`, or file of `unetseg export`.
    config_file
        YAML file with settings.
    """
    from unetseg.serving import server
    from unetseg.serving.model_server import model_app

    with server.listen(config.host, config.port) as listener:
        token, url = server.token_for(config.host, config.token), server.url_of(listener)
        app, about = model_app(run, config, tiling, device, token)
        say(about)
        say(f"listening at {url}")
        if token and not config.token:
            say(f"token: {token}")
        key = '-H "Authorization: Bearer TOKEN" ' if token else ""
        say(f"next: curl {key}-F file=@IMAGE {url}/predict -o mask.png")
        server.run(app, listener)
