from django.db import migrations, models
from django.db.models import Q

from apps.audit.services import drop_guard, make_guard


class Migration(migrations.Migration):

    dependencies = [
        ('audit', '0001_initial'),
    ]

    operations = [
        migrations.RunPython(
            lambda apps, editor: drop_guard(editor.connection), lambda apps, editor: make_guard(editor.connection)
        ),
        migrations.AddField(
            model_name='entry',
            name='subject_id',
            field=models.CharField(blank=True, default='', help_text='The id of the row, which outlives its names.', max_length=40),
        ),
        migrations.AddIndex(
            model_name='entry',
            index=models.Index(fields=['subject_id', '-id'], name='entry_subject', condition=~Q(subject_id='')),
        ),
        migrations.RunPython(
            lambda apps, editor: make_guard(editor.connection), lambda apps, editor: drop_guard(editor.connection)
        ),
    ]
