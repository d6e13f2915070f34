from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0003_health_hours'),
    ]

    operations = [
        migrations.AddField(
            model_name='server',
            name='checking_until',
            field=models.DateTimeField(blank=True, editable=False, help_text='A round of checks holds it; after this the round is lost.', null=True),
        ),
    ]
