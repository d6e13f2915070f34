from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Bucket',
            fields=[
                ('key', models.CharField(help_text='SHA-256 of what is limited.', max_length=64, primary_key=True, serialize=False)),
                ('due', models.FloatField(help_text='When the next call would be on schedule, in seconds since 1970.')),
            ],
        ),
    ]
