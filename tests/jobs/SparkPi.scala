// The example every Spark has, under its usual name; the packages of a Python index lack it.
package org.apache.spark.examples

import org.apache.spark.sql.SparkSession

object SparkPi {
  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder.appName("Spark Pi").getOrCreate()
    val slices = if (args.isEmpty) 2 else args(0).toInt
    val points = 100000 * slices
    val inside = spark.sparkContext
      .parallelize(1 to points, slices)
      .filter { _ =>
        val x = math.random() * 2 - 1
        val y = math.random() * 2 - 1
        x * x + y * y <= 1
      }
      .count()
    println(s"Pi is roughly ${4.0 * inside / points}")
    spark.stop()
  }
}
