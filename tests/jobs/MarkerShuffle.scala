// Sends a marker through a shuffle, then looks for it in the shuffle's files.
// arguments: MARKER FOLDER...; the folders are searched, they are the executors' spark.local.dir.
package io.imagekit.jobs

import java.nio.charset.StandardCharsets.ISO_8859_1
import java.nio.file.{Files, Path, Paths}

import scala.collection.JavaConverters._

import org.apache.spark.sql.SparkSession

object MarkerShuffle {
  private val Keys = 20000

  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder.appName("Marker").getOrCreate()
    val marker = args(0)
    val groups = spark.sparkContext
      .parallelize(1 to Keys, 2)
      .map(number => (number, s"$marker-$number"))
      .groupByKey(2)
      .count()
    val files = args.drop(1).toSeq.flatMap(folder => shuffleFiles(Paths.get(folder)))
    val found = files.count(file => new String(Files.readAllBytes(file), ISO_8859_1).contains(marker))
    println(s"groups: $groups, shuffle files: ${files.size}, with the marker: $found")
    spark.stop()
  }

  private def shuffleFiles(folder: Path): Seq[Path] =
    Files.walk(folder).iterator.asScala.filter { path =>
      val name = path.getFileName.toString
      name.startsWith("shuffle_") && name.endsWith(".data")
    }.toList
}
