"""unetseg app."""

import webbrowser
from pathlib import Path
from threading import Thread
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import say
from unetseg.config import AppConfig


def in_browser(
    folder: Path | None = None,
    /,
    *,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[AppConfig, Parameter(name="*")] = AppConfig(),
) -> None:
    """Draw masks, train, look, correct and train again, in the browser.

    Masks are saved in the folder, as the other commands read them: train, check and predict go on
    where the app stops. Nothing leaves this machine. One browser draws, others look.

    Examples:
    unetseg app photos/
    unetseg app                                      choose a folder in the browser
    unetseg app photos/ --no-browser --port 0        print the address; a free port
    unetseg app --root /data --host 0.0.0.0          for others in the network, by a token

    Parameters
    ----------
    folder
        Folder of images, with masks or without any.
    config_file
        YAML file with settings.
    """
    from unetseg.serving.app import app_router
    from unetseg.serving.door import Limits
    from unetseg.serving.server import build_app, listen, run, token_for, url_of
    from unetseg.serving.studio import Studio

    studio = Studio(config.root or folder or Path.cwd(), folder, config.out)
    token = token_for(config.host, config.token)
    app = build_app(
        [app_router(studio)],
        Limits(body=round(config.max_body * 2**20)),
        token,
        title="unetseg app",
    )
    listener = listen(config.host, config.port)
    address = f"{url_of(listener)}/app/"
    say(f"{folder or 'choose a folder'}: {address}")
    if token and not config.token:
        say(f"token, as the password of any user: {token}")
    if config.browser:  # one of a terminal runs until it is left, and wants answers meanwhile
        Thread(target=webbrowser.open, args=[address], daemon=True).start()
    try:
        run(app, listener)
    finally:
        studio.close()
