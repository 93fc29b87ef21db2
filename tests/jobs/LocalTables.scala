// What makes Hadoop's local file system set and ask for permissions: databases and tables of Hive,
// Parquet files, a stream with a checkpoint. argument: FOLDER, an absolute path, empty or missing.
// The warehouse and the metastore are where the configuration says.
package io.imagekit.jobs

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.streaming.Trigger

object LocalTables {
  def main(args: Array[String]): Unit = {
    val folder = args(0)
    val spark = SparkSession.builder.appName("Local tables").enableHiveSupport().getOrCreate()
    spark.sql("CREATE DATABASE test_db")
    spark.sql("USE test_db")
    spark.sql("CREATE TABLE person (name STRING, age INT, job STRING) " +
      "ROW FORMAT DELIMITED FIELDS TERMINATED BY '\\t' STORED AS TEXTFILE")
    spark.sql("INSERT INTO person VALUES ('Bob', 1, 'Engineer'), ('Eve', 2, 'Driver')")
    val rows = spark.sql("SELECT name, age, job FROM person ORDER BY name").collect()
    println("person: " + rows.map(_.mkString(" ")).mkString("; "))

    spark.table("person").coalesce(1).write.parquet(s"$folder/parquet")
    println(s"parquet: ${spark.read.parquet(s"$folder/parquet").count()}")
    spark.table("person").coalesce(1).write.saveAsTable("saved")
    println(s"saved: ${spark.table("saved").count()}")

    val stream = spark.readStream
      .schema(spark.table("person").schema)
      .parquet(s"$folder/parquet")
      .writeStream
      .option("checkpointLocation", s"$folder/checkpoint")
      .trigger(Trigger.Once())
      .format("parquet")
      .start(s"$folder/streamed")
    stream.awaitTermination()
    println(s"streamed: ${spark.read.parquet(s"$folder/streamed").count()}")
    spark.sql("DROP DATABASE test_db CASCADE")
    spark.stop()
  }
}
