"""Processes that read pictures: whether they can be started at all."""

from multiprocessing.context import BaseContext

from perpixel.errors import PerpixelError


def require_startable(context: BaseContext) -> None:
    """Raises PerpixelError where processes of `context` die as they start.

    Those that are not forked import the running script first. If that starts processes in turn,
    they die, and this process would wait without end for them to take a long list of files.
    """
    if context.get_start_method() == "fork":
        return
    process = context.Process(target=int)  # type: ignore[attr-defined]
    process.start()
    process.join()
    if process.exitcode != 0:
        raise PerpixelError(
            f"a process that was to read pictures has died as it started (exit code "
            f"{process.exitcode}): a script that starts any has its work below "
            f'`if __name__ == "__main__":`, as every process imports it'
        )
