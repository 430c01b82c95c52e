"""Deadlines, quotas, and how much is kept for how long; a part of ``tasks.settings.Settings``."""

from pydantic import Field

from tasks.settings_layers import Layered


class LimitSettings(Layered):
    """Every limit in time and room."""

    store_quota_gib: float = Field(default=0, ge=0)
    """What artifacts may take up together; 0: as much as the disk has. A job that would need more waits."""
    download_quota_gib: float = Field(default=0, ge=0)
    """What downloads and other half-done work may take up together; 0: as much as the disk has."""
    garbage_cron: str = "30 4 * * *"
    """When what nothing refers to any more is removed."""
    audit_cron: str = "0 5 * * *"
    """When what the channels answer is held against what was judged."""
    garbage_grace_hours: float = Field(default=168, ge=1)
    """An artifact is removed when nothing has referred to it for this long."""
    keep_generations: int = Field(default=2, ge=1)
    """So many artifacts that a channel served before are kept, for a roll-back."""
    keep_reports: int = Field(default=100, ge=1)
    """So many decision pages are kept as files for each target, the newest."""
    stage_deadline_seconds: int = 600
    evaluate_deadline_seconds: int = 14400
    upload_deadline_seconds: int = 14400
    """A publication to a Hub that has not ended after this long is ended, and tried again by a later watch."""
    visible_deadline_seconds: int = 120
    lease_seconds: int = Field(default=45, ge=10)
    """A job whose flow run has not renewed its claim for this long is given to another attempt."""
    pending_seconds: int = Field(default=300, ge=30)
    """How long a dispatched run may wait for a worker before its job is given to another attempt."""
    max_attempts: int = Field(default=3, ge=1)
    retry_seconds: int = Field(default=30, ge=0)
    """A job whose attempt came to no end is tried again so long after that attempt began; four times as long after each
    further one."""
    silence_seconds: int = Field(default=900, ge=10)
    """A merge or an evaluation that has told of no progress for this long is ended."""
