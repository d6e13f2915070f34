from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("registry", "0004_checking_until")]

    operations = [
        migrations.AddIndex(
            model_name="server",
            index=models.Index(
                condition=models.Q(("checking_until__isnull", False)), fields=["checking_until"], name="server_checking"
            ),
        ),
    ]
